"""Warnings of doctor about a machine that is not ready for a night, from recorded output of the system's tools.

The output of `pmset -g` and `sw_vers` is what owners of Macs posted in issues: none of this was run on a Mac.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from agent.doctor import memory
from agent.doctor.check import GB
from agent.doctor.machine import macos
from agent.doctor.power import display_of, mode_of, profile_of
from tests.common.in_process import call
from tests.common.workspaces import git

pytestmark = pytest.mark.quick

# From a MacBook Pro on which an app keeps the display on (AppHouseKitchen/AlDente issue 603).
KEPT_ON = """System-wide power settings:
 SleepDisabled\t\t1
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by bluetoothd, powerd, sharingd, com.apphousekitchen.aldente-pro)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         10 (display sleep prevented by com.apphousekitchen.aldente-pro)
 tcpkeepalive         1
 lowpowermode         0
 womp                 1
"""
# A Mac with a high power mode: it has `powermode`, and sleeps only because nothing prevents it.
QUIET = """System-wide power settings:
Currently in use:
 standby              1
 sleep                0 (sleep prevented by caffeinate, caffeinate)
 ttyskeepawake        1
 displaysleep         10
 powermode            0
 womp                 1
"""
SONOMA = "ProductName:\t\tmacOS\nProductVersion:\t\t14.2.1\nBuildVersion:\t\t23C71\n"


def told(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("pmset", "status", "words"),
    [
        (KEPT_ON, "warning", "is kept on by com.apphousekitchen.aldente-pro"),
        (QUIET, "ok", "turns off after 10 min"),
        (told(QUIET, "displaysleep         10", "displaysleep         0"), "warning", "is set to stay on"),
        (told(KEPT_ON, "         10 (display", "         0 (display"), "warning", "is kept on by com.apphouse"),
    ],
)
def test_display_that_stays_on_is_a_warning(pmset: str, status: str, words: str) -> None:
    found = display_of(pmset)
    assert found is not None
    assert (found.status, words in found.message) == (status, True)
    assert found.command == ("pmset displaysleepnow" if status == "warning" else None)


def test_low_power_mode_is_a_warning_under_either_name() -> None:
    for text, name in [(KEPT_ON, "lowpowermode"), (QUIET, "powermode")]:
        before, low = mode_of(text), mode_of(told(text, f" {name:<20} 0", f" {name:<20} 1"))
        assert before is not None
        assert before.status == "ok"
        assert low is not None
        assert (low.status, low.command) == ("warning", f"sudo pmset -a {name} 0")
    high = mode_of(told(QUIET, " powermode            0", " powermode            2"))
    assert high is not None
    assert high.status == "ok"


def test_power_profile_of_linux_is_a_warning_if_it_saves_power() -> None:
    found = [profile_of(each) for each in ("power-saver", "balanced", "performance")]
    assert [each and each.status for each in found] == ["warning", "ok", "ok"]
    assert found[0]
    assert found[0].command == "powerprofilesctl set balanced"


def test_output_that_says_nothing_gives_no_check() -> None:
    assert display_of("") is None
    assert mode_of("Currently in use:\n sleep                1\n") is None
    assert profile_of("") is None
    assert profile_of("Failed to communicate with power-profiles-daemon: timeout") is None
    assert macos("no", "Apple M4") is None


@pytest.mark.parametrize(
    ("version", "chip", "status", "words"),
    [
        ("14.2.1", "Apple M2", "ok", "macOS 14.2.1"),
        ("13.7.8", "Apple M1", "broken", "macOS 13.7.8 is too old: MLX needs macOS 14 or newer"),
        ("26.1", "Apple M4 Max", "ok", "macOS 26.1"),
        ("26.1", "Apple M5 Pro", "warning", "too old for the neural accelerators of the Apple M5 Pro"),
        ("26.2", "Apple M5", "ok", "macOS 26.2"),
        ("26", "Apple M10", "warning", "MLX needs macOS 26.2"),
        ("27.0", "Apple M5", "ok", "macOS 27.0"),
    ],
)
def test_old_macos_is_named_with_what_needs_a_newer_one(version: str, chip: str, status: str, words: str) -> None:
    found = macos(told(SONOMA, "14.2.1", version), chip)
    assert found is not None
    assert (found.status, words in found.message) == (status, True)
    assert found.command == (None if status == "ok" else "softwareupdate --list")


def test_swap_in_use_is_a_warning_from_1_gb_on() -> None:
    assert memory.swap(0).status == "ok"
    assert memory.swap(GB - 1).status == "ok"
    found = memory.swap(3 * GB)
    assert (found.status, found.command) == ("warning", memory.LOOK)
    assert "3.0 GB in use" in found.message


@pytest.mark.parametrize(
    ("answer", "words"),
    [("[N/A], [N/A]", " GB free"), ("[N/A]", " GB free"), ("4096, 8192", "4.0 of 8.0 GB of GPU memory")],
)
def test_card_that_names_no_memory_has_that_of_the_machine(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, words: str
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "mlx_cuda_12-1.dist-info").mkdir()
    (tmp_path / "mlx_cuda_12-1.dist-info" / "METADATA").write_text("Name: mlx-cuda-12\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    checks = json.loads(call(quick, "doctor", "--json").stdout)["data"]["checks"]
    (message,) = (check["message"] for check in checks if check["name"] == "memory")
    assert words in message
    assert ("GPU" in message) == ("GPU" in words)


def test_doctor_asks_the_tools_of_this_machine(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = json.loads((quick / "protocol.json").read_bytes())
    protocol["meta"]["archetype"] = "ml_train"
    (quick / "protocol.json").write_text(json.dumps(protocol))
    git(quick, "commit", "--quiet", "-am", "it trains")
    for name, text in [("pmset", KEPT_ON), ("sw_vers", SONOMA), ("powerprofilesctl", "power-saver\n")]:
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path / name}.txt\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(memory, "LITTLE", psutil.virtual_memory().total + 1)
    done = call(quick, "doctor", "--json", AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    found = [(check["name"], check["status"]) for check in json.loads(done.stdout)["data"]["checks"]]
    expected = [("display", "warning"), ("power", "ok"), ("power", "warning"), ("system", "ok"), ("memory", "warning")]
    assert set(expected) <= set(found)
    assert "swap" in dict(found)
