"""Stations on this machine: one for each GPU, or for each share of the cores, with a scheduler that only they reach."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError
from agent.fleet.security import make_certificates
from agent.format import counted
from agent.room.sandbox import temporary_folder
from agent.station import records
from agent.station.records import records_folder
from agent.system.ask import ask
from agent.system.files import last_lines, locked

START_SECONDS = 60.0
ENDING_SECONDS, PAUSE_SECONDS = 20.0, 2.0
GPU_SECONDS = 20
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """Where a station runs.

    Attributes:
        cores: the cores that it may use; empty for all.
        gpu: ID of its NVIDIA card; None for none.
    """

    name: str
    cores: tuple[int, ...] = ()
    gpu: str | None = None


@dataclass(frozen=True)
class LocalFleet:
    """The address of the scheduler, the folder of its certificates, and the stations' logs by name."""

    address: str
    tls: Path
    logs: Mapping[str, Path]


def places(count: int, known: Collection[str] = ()) -> list[Place]:
    """Return where so many stations run on this machine.

    Args:
        known: names of the session's stations so far.

    Raises:
        PreconditionError: it has too few accelerators.
    """
    cards = gpus()
    if cards:
        if count > len(cards):
            raise PreconditionError(
                f"this machine has {counted(len(cards), 'GPU')}, and each station needs its own",
                hint=f"use `--stations {len(cards)}`",
            )
        return [Place(name, gpu=card) for name, card in zip(_names(cards, known), cards[:count], strict=False)]
    if sys.platform == "darwin":
        if count > 1:
            raise PreconditionError(
                "this Mac has one GPU, which runs at the same time would share, so that none could be compared",
                hint="use one station on each Mac: see docs/stations.md",
            )
        return [Place("mac")]
    cores = _by_core(sorted(os.sched_getaffinity(0)))
    share = len(cores) // count
    # Another share is another station, with other numbers.
    if not share:  # for commands that mostly wait: their numbers must not depend on the time that a core has
        return [Place(f"cpu{number}of{count}", (cores[number % len(cores)],)) for number in range(count)]
    name = "cpu{}" if share == 1 else f"cpu{{}}x{share}"
    return [Place(name.format(number), tuple(cores[number * share : (number + 1) * share])) for number in range(count)]


def _names(cards: Sequence[str], known: Collection[str]) -> list[str]:
    """Return a name for each card, by its number or from its UUID, so that another card is another station.

    Sessions of earlier versions keep the places in the list, by which they named cards with a UUID.
    """
    digests = (hashlib.sha256(card.encode()).hexdigest()[:8] for card in cards)
    own = [f"gpu{int(card)}" if card.isdecimal() else f"gpu-{each}" for card, each in zip(cards, digests, strict=True)]
    listed = [f"gpu{place}" for place in range(len(cards))]
    begun = not all(map(str.isdecimal, cards)) and known and not {*known} & {*own} and {*known} & {*listed}
    return listed if begun or len({*own}) < len(cards) else own


def sharing(count: int) -> str | None:
    """Return a warning if so many stations share cores; else None."""
    where = places(count)
    cores = len({core for each in where for core in each.cores})
    if not cores or cores >= count:
        return None
    return f"{count} stations share {counted(cores, 'core')}, so each measures how busy the others are"


@contextlib.contextmanager
def reserved(count: int, known: Collection[str] = ()) -> Iterator[None]:
    """Hold the names of so many stations for one session, because only one process at a time runs as a station.

    Args:
        known: names of the session's stations so far.

    Raises:
        PreconditionError: the stations of another session have them.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(AutoresearchError):  # the station says so, too
            records.begin()  # takes over what an earlier version kept, unless the folder of records exists
        for each in places(count, known):
            folder = records_folder(each.name)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                free = stack.enter_context(locked(folder / "session.lock"))
            except OSError:  # the station says so, too
                continue
            if not free:
                other = f", or choose other cards with `{VISIBLE}`" if each.gpu is not None else ""
                raise PreconditionError(
                    f"another session of this machine has a station {each.name}, which measures for one at a time",
                    hint=f"run the same command again when that session has ended{other}",
                )
        yield


def gpus() -> list[str]:
    """Return the IDs of the NVIDIA cards that this process may use."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() and each.strip() != "-1"]
    # It may list the other cards and fail if one of them is broken.
    said = ask("nvidia-smi", "--query-gpu=index", "--format=csv,noheader", seconds=GPU_SECONDS, may_fail=True)
    return [line.strip() for line in (said or "").splitlines() if line.strip().isdecimal()]


@contextlib.contextmanager
def local_stations(count: int, workspace: Path, known: Collection[str] = ()) -> Iterator[LocalFleet]:
    """Start a scheduler and so many stations, and end them after the block, or when this process dies.

    Their certificates and logs are in a temporary folder. What a kill leaves of it is removed at the next start for the
    same workspace.

    Even here the connection has certificates: other users of this machine could run commands through an open one.

    Args:
        known: names of the session's stations so far.

    Raises:
        PreconditionError: the machine has too few accelerators.
        AutoresearchError: they did not start.
    """
    where = places(count, known)
    with temporary_folder(workspace / "stations") as folder, contextlib.ExitStack() as stack:
        tls = folder / "tls"
        make_certificates(tls)
        logs = {each.name: folder / f"{each.name}.log" for each in where}
        children: list[Child] = []
        stack.callback(_end, children)
        scheduler = Child({"kind": "scheduler", "tls": str(tls)}, {}, folder / "scheduler.log")
        children.append(scheduler)
        address = scheduler.ready()
        # If it is started again, it must be where the others look for it.
        scheduler.config["port"] = int(address.rpartition(":")[2])
        for each in where:
            config = {"kind": "station", "tls": str(tls), "address": address, "name": each.name, "cores": each.cores}
            variables = {VISIBLE: each.gpu} if each.gpu is not None else {}
            children.append(Child(config, variables, logs[each.name]))
        for child in children[1:]:
            child.ready()
        ended = threading.Event()
        keeper = threading.Thread(target=_keep, args=(children, ended), daemon=True)
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(ended.set)
        yield LocalFleet(address, tls, logs)


class Child:
    """A process of the fleet that is started again if it dies. If this process dies, the end of its input ends it."""

    def __init__(self, config: dict[str, Any], variables: Mapping[str, str], log: Path) -> None:
        self.config, self._variables, self._log = config, variables, log
        self._process = self._start()

    @property
    def is_dead(self) -> bool:
        return self._process.poll() is not None

    def start_again(self) -> None:
        self._close()
        self._process = self._start()

    def ready(self) -> str:
        """Return the line that it prints when it is ready. Raises AutoresearchError if it does not start."""
        what = f"station {self.config['name']}" if "name" in self.config else f"the {self.config['kind']}"
        return _line(self._process, self._log, what)

    def terminate(self) -> None:
        self._process.terminate()

    def end(self, seconds: float = ENDING_SECONDS) -> None:
        self.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "agent.fleet.child", json.dumps(self.config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **self._variables},
                start_new_session=True,
            )


def _end(children: Sequence[Child]) -> None:
    """End children together, so that those which do not answer take no longer than one."""
    for child in reversed(children):
        child.terminate()
    deadline = time.monotonic() + ENDING_SECONDS
    for child in reversed(children):
        child.end(max(0.0, deadline - time.monotonic()))


def _keep(children: Sequence[Child], ended: threading.Event) -> None:
    """Start children again that have died, such as a station that a run has taken all memory from."""
    while not ended.wait(PAUSE_SECONDS):
        for child in children:
            if child.is_dead:
                with contextlib.suppress(OSError):  # such as too little memory: it is tried again
                    child.start_again()


def _line(child: subprocess.Popen[bytes], log: Path, what: str) -> str:
    """Return the line that a child prints when it is ready."""
    assert child.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    said = b""
    while not said.endswith(b"\n") and time.monotonic() < deadline:
        if select.select([child.stdout], [], [], 0.2)[0]:
            part = os.read(child.stdout.fileno(), 4096)
            if not part:
                break
            said += part
    if not said.endswith(b"\n"):
        last = "".join(last_lines(log)) or "it printed nothing"
        raise AutoresearchError(f"{what} did not start: {last[:300]}", hint="start it again with `--debug`")
    return said.decode(errors="replace").strip()


def _by_core(cores: Sequence[int]) -> list[int]:
    """Return cores with the two threads of a physical core side by side, so that no two stations share one."""

    def first_sibling(core: int) -> int:
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
            return int(text.replace("-", ",").split(",")[0])
        except (OSError, ValueError):
            return core

    return sorted(cores, key=lambda core: (first_sibling(core), core))
