"""The durable record of a session: one event per line, written to disk before the event takes effect."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agent.errors import TOO_LARGE, AutoresearchError, PreconditionError, fault
from agent.format import one_line
from agent.journal.events import Event, fault_of
from agent.journal.paths import journal_path
from agent.journal.state import State, step
from agent.system.files import Unusable, open_plain, read_bounded, read_end, reason, write_whole
from agent.system.invocation import typed

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

LARGEST_JOURNAL, LONGEST_LINE = 512 * 2**20, 16 * 2**20
# How many journals a process remembers, and how much of one it reads at a time.
MOST_KNOWN, CHUNK = 32, 2**20
COSTS = ("input_tokens", "output_tokens", "dollars")
LARGEST_COST = 1e9  # tokens or dollars
# The hint for a damaged journal. The program itself never rewrites one.
REPAIR = "repair {} manually, since the program never rewrites a journal, or start a session with another --tag"
# Raised by a line that is not an event, or by an event that cannot follow those before it.
NO_EVENT = (ValueError, KeyError, AttributeError, TypeError, IndexError, AssertionError, OverflowError)
UNREADABLE = (*NO_EVENT, RecursionError, MemoryError)
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of fsync(2), on disks that cannot do it
# Readable: of a file that was deleted, only the descriptor still has the content.
APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

View = Callable[[Event, State], None]


class Journal:
    """An append-only file of events, with their fold in `state` and the views that show each event.

    Two threads may write events: the loop, and the proposer that makes the next proposal (`agent.proposers.ahead`).
    """

    def __init__(self, path: Path, views: Sequence[View] = ()) -> None:
        self.path = path
        self.state = fold(path)
        self._views = views
        self._file: IO[str] | None = None
        self._restored = False
        # The handler of Ctrl-C shows a note, even while this thread is writing an event.
        self._lock = threading.RLock()

    def append(self, kind: str, **data: Any) -> None:
        """Write an event and return once it is on disk.

        Raises:
            AutoresearchError: the journal cannot be written, or could not be read with this event.
        """
        with self._lock:
            event = Event(kind, round(time.time(), 3), data)
            if (name := fault_of(event)) is not None:  # it could never be read again, nor could what follows it
                value = one_line(str(data.get(name)))[:100]
                raise AutoresearchError(
                    f"{name} of the event {kind} has a value that a journal cannot hold: {value}",
                    hint="this is a fault of the program: please report it",
                )
            line = event.to_json() + "\n"
            if len(line.encode()) > LONGEST_LINE:  # nor this
                raise AutoresearchError(
                    f"the event {kind} is longer than {LONGEST_LINE >> 20} MiB, which a journal cannot hold",
                    hint="this is a fault of the program: please report it",
                )
            try:
                file = self._current()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except Unusable as error:  # whose number is that of a disk that cannot sync
                hint = "put the journal back in its place, then run the same command again"
                raise AutoresearchError(f"cannot write {self.path}: {reason(error)}", hint=hint) from None
            except OSError as error:
                remedy = "free disk space or restore write permission"
                if error.errno == errno.EFBIG:
                    remedy = TOO_LARGE
                if error.errno in NO_SYNC:
                    remedy = "move the workspace to a disk that can sync files to it"
                hint = f"{remedy}, then run the same command again; the session continues where it stopped"
                raise AutoresearchError(f"cannot write {self.path}: {error.strerror}", hint=hint) from None
            self.state = step(self.state, event)
            if self._restored:
                self._restored = False
                self.show("note", text=f"{self.path} was deleted, for example by `git clean`, and is written again")
            self._show(event)

    def show(self, kind: str, **data: Any) -> None:
        """Show the views an event without recording it."""
        self._show(Event(kind, time.time(), data))

    def close(self) -> None:
        # Closing retries a failed write, which has been reported already.
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()

    def _show(self, event: Event) -> None:
        with self._lock:
            for view in self._views:
                view(event, self.state)

    def _current(self) -> IO[str]:
        """Return the file of the journal, open: written again if it was deleted, since the open one is still whole.

        Raises:
            AutoresearchError: another file is in its place.
        """
        if self._file is None:
            return self._open()
        try:
            if os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self.path)):
                return self._file
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, _content(self._file.fileno()))
            self._restored = True
        else:
            self._require_same(_content(self._file.fileno()))
        self.close()
        return self._open()

    def _require_same(self, own: bytes) -> None:
        """Raise AutoresearchError if the file in the journal's place has other content, and write its own next to it.

        A disk may number its files anew, and an editor writes a file of the same content.
        """
        with contextlib.suppress(Unusable):
            if read_bounded(self.path, LARGEST_JOURNAL) == own:
                return
        # Named by its content, so that one of an earlier time stays.
        kept = self.path.with_name(f"{self.path.name}.own-{hashlib.sha256(own).hexdigest()[:8]}")
        write_whole(kept, own)
        raise AutoresearchError(
            f"another program has replaced {self.path}, so this session cannot go on",
            hint=f"move {kept}, which has all of its events, to {self.path.name}, then run the same command again",
        )

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(self.path)
        self._file = os.fdopen(os.open(self.path, APPEND, 0o666), "a", encoding="utf-8")
        return self._file


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a journal. A torn last line is skipped.

    Raises:
        AutoresearchError: another line is not an event, an event holds invalid values, or it cannot follow the
            events before it.
    """
    for event, _ in _places(path, _Place()):
        yield event


def fold(path: Path) -> State:
    """Return the state of a session.

    A process that folds a journal again only reads the events that are new, if the rest is as it was.

    Raises:
        AutoresearchError: its journal is damaged.
    """
    return _folded(path).state


def begun(folder: Path, tag: str) -> State:
    """Return the state of a session of a workspace that has begun.

    Raises:
        AutoresearchError: its journal is damaged.
        PreconditionError: it ended before its first event.
    """
    state = fold(journal_path(folder, tag))
    if state.session is None:
        raise PreconditionError(
            f"session {tag} ended before its first event", hint=f"start it with `{typed(f'run --tag {tag}')}`"
        )
    return state


def read_and_fold(path: Path) -> tuple[list[Event], State]:
    """Return the events of a journal and the state after them; raise as `read` and `fold` do.

    Most of the time goes into folding, which is not repeated here either.
    """
    place = _folded(path)
    events = list[Event]()
    worst: Mapping[str, float] = {}
    for number, line in enumerate(itertools.islice(_lines(path, 0), place.lines), start=1):
        try:
            event, worst = _event(line, worst)
        except UNREADABLE:  # another program has just rewritten it
            raise _no_event(path, number) from None
        events.append(event)
    return events, place.state


def _folded(path: Path) -> _Place:
    """Return the place at the end of a journal, and remember it; raise as `fold` does."""
    place = _KNOWN.pop(path, None)
    if place is None or not _begins_with(path, place):
        place = _Place()
    for _, after in _places(path, place):
        place = after
    if not place.whole:
        raise damaged(path, KeyError("base"))
    _KNOWN[path] = place
    if len(_KNOWN) > MOST_KNOWN:
        with contextlib.suppress(KeyError):  # another thread was faster
            del _KNOWN[next(iter(_KNOWN))]
    return place


def damaged(path: Path, error: Exception) -> AutoresearchError:
    """Return the error for a journal whose events do not form a session."""
    return AutoresearchError(f"{path} is not the journal of a session ({fault(error)})", hint=REPAIR.format("it"))


@dataclass(frozen=True)
class _Place:
    """How far a journal has been read.

    Attributes:
        lines, size: read so far; the size in bytes.
        digest: of these bytes.
        state: after these events.
        worst: the most that the model call in progress can cost; empty for none.
        whole: whether the session event is complete. If not, the file is read as a plain list of events.
    """

    lines: int = 0
    size: int = 0
    digest: Digest = field(default_factory=hashlib.sha256)
    state: State = field(default_factory=State)
    worst: Mapping[str, float] = field(default_factory=dict)
    whole: bool = True


_KNOWN: dict[Path, _Place] = {}


def _places(path: Path, place: _Place) -> Iterator[tuple[Event, _Place]]:
    """Yield each event after a place, and the place after it."""
    digest = place.digest.copy()
    for line in _lines(path, place.size):
        number = place.lines + 1
        try:
            event, worst = _event(line, place.worst)
            if fault_of(event) is not None:
                raise ValueError
            whole = place.whole and not (event.kind == "session" and "base" not in event.data)
            state = step(place.state, event) if whole else place.state
        except UNREADABLE:
            raise _no_event(path, number) from None
        digest.update(line)
        place = _Place(number, place.size + len(line), digest, state, worst, whole)
        yield event, place


def _event(line: bytes, worst: Mapping[str, float]) -> tuple[Event, Mapping[str, float]]:
    """Return the event of a line, and the most that the call in progress can cost; raise one of UNREADABLE."""
    data = json.loads(line)
    return _sound(Event(data.pop("event"), data.pop("at"), data), worst)


def _no_event(path: Path, number: int) -> AutoresearchError:
    return AutoresearchError(f"line {number} of {path} is not an event", hint=REPAIR.format("that line"))


def _begins_with(path: Path, place: _Place) -> bool:
    """Return whether a journal still begins with what was read of it."""
    digest, left = hashlib.sha256(), place.size
    try:
        with open_plain(path) as file:
            while left > 0 and (part := file.read(min(left, CHUNK))):
                digest.update(part)
                left -= len(part)
    except (OSError, Unusable):
        return False
    return left == 0 and digest.digest() == place.digest.digest()


def _lines(path: Path, start: int) -> Iterator[bytes]:
    """Yield the complete lines from a byte on.

    Raises:
        AutoresearchError: the file cannot be a journal.
    """
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST_JOURNAL:
                raise Unusable(f"is larger than {LARGEST_JOURNAL // 2**20} MiB", path)
            file.seek(start)
            reader = io.BufferedReader(file)
            while line := reader.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    raise Unusable(f"has a line of more than {LONGEST_LINE // 2**20} MiB", path)
                if not line.endswith(b"\n"):
                    return
                yield line
    except FileNotFoundError:
        return
    except Unusable as fault:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        raise AutoresearchError(f"{path} {fault}, so it is not a journal", hint=REPAIR.format("it")) from None


def _sound(event: Event, worst: Mapping[str, float]) -> tuple[Event, Mapping[str, float]]:
    """Return an event with sound costs, and the most that the call in progress can cost.

    An earlier version took costs from a server unchecked: text, negative or absurdly large numbers. An invalid one is
    replaced by the most the call could cost, which the event before it holds.
    """
    if event.kind not in ("calling", "called"):
        return event, worst
    known = {**dict.fromkeys(COSTS, 0), **(worst if event.kind == "called" else {})}
    costs = {name: event.data[name] if _is_cost(event.data.get(name)) else known[name] for name in COSTS}
    return Event(event.kind, event.at, {**event.data, **costs}), costs if event.kind == "calling" else {}


def _is_cost(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST_COST


def _content(descriptor: int) -> bytes:
    parts, size = [], 0
    while part := os.pread(descriptor, CHUNK, size):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def drop_torn_line(path: Path) -> int:
    """Remove a last line that power loss cut short. Its event never took effect.

    Returns:
        The number of bytes removed.
    """
    try:
        with open_plain(path) as file:
            size = file.seek(0, os.SEEK_END)
        whole = size - len(read_end(path, LONGEST_LINE).rpartition(b"\n")[2])
    except FileNotFoundError:
        return 0
    if whole < size:
        os.truncate(path, whole)
    return size - whole
