"""Describe the machine without anything that identifies its owner: no host name, user name or path."""

from __future__ import annotations

import contextlib
import getpass
import json
import platform
import re
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from agent.execution import fingerprint
from agent.execution.measure import Attempt, Runner, execute, room_of
from agent.execution.preflight import program
from agent.execution.process import Observer
from agent.format import one_line
from agent.journal.paths import cache_folder, state_folder
from agent.system import temporary
from agent.system.ask import ask
from agent.system.files import last_lines

ASK_SECONDS = 20
DEVICE_SECONDS = 60.0
GB = 2**30
# A child process asks MLX, as the program never imports it. MLX has more figures, some of which identify the card.
DEVICE_FIGURES = {
    "architecture": "architecture",
    "memory_size": "memory",
    "total_memory": "memory",
    "max_recommended_working_set_size": "working set",
    "max_buffer_length": "largest buffer",
}
ASK_DEVICE = """
import importlib, json, platform
facts = {"python": platform.python_version()}
try:
    mx = importlib.import_module("mlx.core")
    facts["mlx"], facts["device"] = mx.__version__, str(mx.default_device())
    facts["info"] = (getattr(mx, "device_info", None) or mx.metal.device_info)()
except Exception as error:
    facts["error"] = type(error).__name__
print(json.dumps(facts, default=str))
"""
PATH = re.compile(r"(?<![\w.])~?/(?:[^\s/'\":,;()]+/)*")
QUOTED_PATH = re.compile(r"""(['"])~?/[^'"\n]*/([^'"/\n]*)(?=\1)""")  # may contain spaces
SHORTEST_NAME = 2


def facts(runner: Runner, observer: Observer) -> dict[str, str]:
    """Return what is known about the machine, by name. Unknown facts are left out."""
    known = fingerprint.fingerprint(runner.protocol, None, "")
    cores, physical = known["cores"], psutil.cpu_count(logical=False)
    said = _device(runner, observer)
    found = {
        "chip": f"{known['chip']}, {cores} cores"
        + (f" ({physical} physical)" if physical and physical != cores else ""),
        "memory": f"{psutil.virtual_memory().total / GB:.1f} GB, {psutil.virtual_memory().available / GB:.1f} GB free",
        "os": _system(),
        "python": said.get("python"),
        "mlx": _mlx(said, known),
        "device": device_line(said.get("info") or {}),
        "gpu": _nvidia(),
        "power": _power(),
        "display": _display(),
        **_mac(),
    }
    return {name: one_line(str(text)) for name, text in found.items() if text}


def public(text: str) -> str:
    """Remove folders, the user's name and the host's name from a text that a run has written."""
    for folder in sorted(_folders(), key=len, reverse=True):
        text = text.replace(folder, "")
    text = PATH.sub("", QUOTED_PATH.sub(r"\1\2", text))
    for name in {*_names()}:
        if len(name) >= SHORTEST_NAME:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def _folders() -> set[str]:
    """Return the folders that errors are likely to name, which may contain any character."""
    found = {Path.cwd(), Path(sys.prefix), temporary.place(), cache_folder()}
    with contextlib.suppress(RuntimeError):
        found.add(Path.home())
    return {str(each) for folder in found for each in (folder, folder.resolve()) if len(folder.parts) > 1}


def device_line(info: Mapping[str, Any]) -> str:
    """Describe the device by the figures of MLX's `device_info`; empty if it has none."""
    parts = {}
    for key, name in DEVICE_FIGURES.items():
        value = info.get(key)
        if value:
            parts[name] = f"{name} {value / GB:.1f} GB" if isinstance(value, int | float) else f"{name} {value}"
    return ", ".join([*([str(info["device_name"])] if info.get("device_name") else []), *parts.values()])


def mac_facts(displays: str, power: str) -> dict[str, str]:
    """Return facts about a Mac.

    Args:
        displays: output of `system_profiler SPDisplaysDataType -json`.
        power: output of `pmset -g`.
    """
    found = {}
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        cards = json.loads(displays)["SPDisplaysDataType"]
        shown = [card for card in cards if card.get("sppci_cores")]
        if shown:
            metal = str(shown[0].get("spdisplays_mtlgpufamilysupport", "")).removeprefix("spdisplays_metal")
            found["gpu"] = f"{shown[0]['sppci_cores']} GPU cores" + (f", Metal {metal}" if metal else "")
        online = sum(len(card.get("spdisplays_ndrvs", [])) for card in cards)
        found["display"] = f"{online} connected" if online else "none connected"
    sleep = re.search(r"^\s*displaysleep\s+(\d+)", power, re.MULTILINE)
    if sleep and "display" in found:
        found["display"] += ", never sleeps" if sleep[1] == "0" else f", sleeps after {sleep[1]} min"
    low = re.search(r"^\s*(?:lowpowermode|powermode)\s+(\d+)", power, re.MULTILINE)
    if low:
        found["power mode"] = {"0": "normal", "1": "low", "2": "high"}.get(low[1], low[1])
    return found


def _device(runner: Runner, observer: Observer) -> dict[str, Any]:
    """Ask the interpreter of the recipe for its MLX, in a room like that of a run."""
    started = program(runner.protocol)
    if started is None:
        return {}
    command = shlex.join([*started[0], "-c", ASK_DEVICE])
    key = state_folder(runner.workspace.folder) / "device"
    with room_of(runner, runner.workspace.head, fingerprint.snapshot_folder(runner.protocol), key=key) as place:
        log = place.layout.folder / "log"
        execute(runner, Attempt(place, log), observer, command=command, limit=DEVICE_SECONDS)
        with contextlib.suppress(ValueError, IndexError, OSError):
            said = json.loads(last_lines(log, 1)[0])
            return said if isinstance(said, dict) else {}
    return {}


def _mlx(said: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    version = said.get("mlx") or known["mlx"]
    if not version:
        return None
    device = re.sub(r"Device\((\w+).*", r"\1", str(said.get("device", "")))
    return f"{version}, backend {known['backend']}" + (f", device {device}" if device else "")


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    name = ""
    with contextlib.suppress(OSError):
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    kernel = f"{platform.system()} {platform.release()}"
    return f"{name}, {kernel}" if name else kernel


def _nvidia() -> str | None:
    fields = "name,driver_version,memory.total,power.limit"
    said = ask("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", seconds=ASK_SECONDS)
    if not said:
        return None
    cards = [line.split(", ") for line in said.splitlines()]
    return "; ".join(f"{name}, driver {', '.join(rest)}" for name, *rest in cards)


def _mac() -> dict[str, str]:
    if sys.platform != "darwin":
        return {}
    displays = ask("system_profiler", "SPDisplaysDataType", "-json", seconds=ASK_SECONDS)
    return mac_facts(displays or "", ask("pmset", "-g", seconds=ASK_SECONDS) or "")


def _power() -> str | None:
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        battery = psutil.sensors_battery()
        if battery is not None:
            return "mains" if battery.power_plugged else f"battery, {battery.percent:.0f} %"
    return "mains, no battery"


def _display() -> str | None:
    """Return the displays of a Linux machine by the kernel's own list; None if it has no list."""
    states = []
    for path in Path("/sys/class/drm").glob("card*-*/status"):
        with contextlib.suppress(OSError):
            states.append(path.read_text().strip())
    if not states:
        return None
    count = states.count("connected")
    return f"{count} connected" if count else "none connected"


def _names() -> list[str]:
    found = [socket.gethostname(), socket.gethostname().split(".")[0]]
    with contextlib.suppress(OSError, KeyError, ImportError):
        found.append(getpass.getuser())
    return sorted(found, key=len, reverse=True)
