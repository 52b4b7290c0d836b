"""What the harness itself saw of a run, told to the loop that started it, and the ways of fooling it that end a run.

A loop names a file, and the harness writes there what it computed, one JSON object:

    name, metric      what was computed, and its value
    eval_tokens       tokens that it was taken over
    training_seconds  from the first batch to the evaluation, by the harness's own clock, without startup
    elapsed_seconds   since the harness was imported, by the same clock
    snapshot          folder and id of the data
    void              why the run does not count; null where it does

A run that is caught ends at once with that sentence: there is no exception that it could catch. Everything here lives
in the process that it watches, so it stops what a careless or an ambitious train.py does, not what an attacker can.
Without a loop nothing is watched, and `refuse` raises ValueError.
"""

import builtins
import functools
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NoReturn, TypeVar

import mlx.core as mx
import numpy as np

Item = TypeVar("Item")
Pins = dict[str, tuple[object, CodeType | None]]

VOID_EXIT_CODE = 4
# Compilation falls into the first batches; what they take beyond an ordinary one is startup, up to a minute.
STARTUP_BATCHES = 10
STARTUP_SECONDS = 60.0
# No text is compressed this far: children's stories reach about 0.4 bits per byte, general English 0.6.
LEAST_BITS_PER_BYTE = 0.25

# What the metric is made with. A train.py that replaces one of these changes the metric, or the time it has.
USED = {
    builtins: "abs all any enumerate float getattr int isinstance len list max min next open range sorted sum type zip",
    math: "ceil floor isfinite log",
    time: "monotonic monotonic_ns perf_counter perf_counter_ns process_time time time_ns",
    np: "abs arange array asarray ascontiguousarray concatenate cumsum diff empty load searchsorted stack zeros",
    mx: "allclose array log logsumexp power take_along_axis",
}
LIBRARIES = ("numpy", "mlx.core", "tiktoken", "json", "functools", "statistics")
ORIGINAL_KINDS = ("nb_func", "_ArrayFunctionDispatcher", "ufunc")
OPENING = ("open", "os.link", "os.symlink", "os.rename", "shutil.copyfile")
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")

# Bound now: what a train.py puts in their place later is not what runs here.
_now, _stat, _exit, _me, _dumps = time.monotonic, os.stat, os._exit, threading.get_ident, json.dumps

_file: str | None = None
_began = _now()
_pins: dict[str, Pins] = {}
_guarded: set[tuple[int, int]] = set()
_reader: int | None = None  # the thread that may read the validation split
_gaps: list[float] = []  # seconds between batches, and from the last to the evaluation
_latest = _began
_timed = False
_longest = math.inf  # seconds of training after which a run is void


def watching() -> bool:
    return _file is not None


def watch(file: str, harness: ModuleType, validation: Iterable[Path], longest: float) -> None:
    """Begin, and attest to `file`.

    harness: the module whose functions and constants must stay as they are; validation: the files of that split;
    longest: seconds of training after which a run is ended as void.
    """
    global _file, _longest
    _file, _longest = file, longest
    here = Path(harness.__file__ or "").parent
    for name in LIBRARIES:
        source = Path(sys.modules[name].__file__ or "")
        if source.is_relative_to(here) and not {"site-packages", "dist-packages"} & {*source.parts}:
            refuse(f"{source.name} in the workspace stands in for {name}: remove it")
    for module, names in USED.items():
        for name in names.split():
            if not _is_original(module, name):
                refuse(f"{module.__name__}.{name} was replaced before the harness was imported")
        _pins[module.__name__] = _pin({name: getattr(module, name) for name in names.split()})
    _pins["mlx.core.array"] = _pin(vars(mx.array))
    for part in (harness, sys.modules[__name__]):
        fixed = {name: value for name, value in vars(part).items() if name.isupper() or callable(value)}
        _pins[part.__name__] = _pin(fixed)
        for name, value in fixed.items():
            if isinstance(value, type) and value.__module__ == part.__name__:
                _pins[f"{part.__name__}.{name}"] = _pin(vars(value))
    for path in validation:
        stat = _stat(path)
        _guarded.add((stat.st_dev, stat.st_ino))
    # MLX reads files without Python's knowledge.
    mx.load = _watched(mx.load)
    sys.addaudithook(_heard)


def refuse(reason: str) -> NoReturn:
    """End the run as void. Raises ValueError where no loop watches."""
    if not watching():
        raise ValueError(reason)
    try:
        _write({"void": reason})
        os.write(2, f"void: {reason}\n".encode())
    finally:
        _exit(VOID_EXIT_CODE)


_refuse = refuse  # what catches a replaced `refuse` cannot be that one


def require_untouched() -> None:
    """Refuse a run that has replaced a part of the harness, or of what it is made with."""
    for owner, pins in _pins.items():
        module, _, kind = owner.rpartition(".")
        holder: Any = sys.modules[owner] if owner in sys.modules else getattr(sys.modules[module], kind)
        for name, (value, code) in pins.items():
            current = vars(holder).get(name)
            if current is not value or getattr(current, "__code__", None) is not code:
                _refuse(f"train.py replaced {owner}.{name}")


def timed(batches: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same batches; the clock of training runs from the first."""
    global _latest, _timed
    with closing(batches):
        for batch in batches:
            if _timed:
                _lap()
                if len(_gaps) > 1:  # of one batch alone nobody knows how much of it was compilation
                    _require_in_time(_least_training_seconds)
            _latest, _timed = _now(), True
            yield batch


@contextmanager
def evaluation() -> Iterator[None]:
    """Its time is not training. Refuses a run that has replaced something, before and after."""
    global _latest
    _lap()
    _require_in_time(_training_seconds)
    require_untouched()
    yield
    require_untouched()
    _latest = _now()


@contextmanager
def reading_validation() -> Iterator[None]:
    """This thread may open the validation split."""
    global _reader
    _reader = _me()
    try:
        yield
    finally:
        _reader = None


def attest(name: str, metric: float, eval_tokens: int, folder: Path, snapshot: str) -> None:
    """Write what the harness computed, in bits per byte; the last evaluation is the one that counts."""
    if not watching():
        return
    if metric < LEAST_BITS_PER_BYTE:
        _refuse(f"{metric:.6f} bits per byte is less than any text can be compressed to")
    _write(
        {
            "name": name,
            "metric": metric,
            "eval_tokens": eval_tokens,
            "training_seconds": _training_seconds(),
            "elapsed_seconds": _now() - _began,
            "snapshot": {"folder": str(folder), "id": snapshot},
            "void": None,
        }
    )


def _lap() -> None:
    _gaps.append(_now() - _latest)


def _require_in_time(trained: Callable[[], float]) -> None:
    """End a run that has trained for too long to count."""
    # Most of the time the clock alone says that there is nothing to work out.
    if _now() - _began > _longest and (seconds := trained()) > _longest:
        _refuse(
            f"it has trained for {seconds:.0f} s by the harness's clock, and more than {_longest:.0f} s do not count"
        )


def _least_training_seconds() -> float:
    """As `_training_seconds` of a run under way: its shortest batch is taken for the usual one.

    Compilation may have been in all batches but that one. Where the run goes on, only a batch that takes less than any
    so far could make this smaller.
    """
    usual = min(_gaps)
    startup = sum(gap - usual for gap in _gaps[:STARTUP_BATCHES])
    return sum(_gaps) - min(startup, STARTUP_SECONDS)


def _training_seconds() -> float:
    usual = statistics.median(_gaps)
    # The last, before the evaluation, is never startup: work could be put off until then.
    first = _gaps[:-1][:STARTUP_BATCHES]
    startup = sum(max(0.0, gap - usual) for gap in first) if _timed else STARTUP_SECONDS
    return max(0.0, sum(_gaps) - min(startup, STARTUP_SECONDS))


def _write(content: Mapping[str, Any]) -> None:
    global _reader
    assert _file is not None
    before, _reader = _reader, _me()
    part = Path(f"{_file}.part")
    part.write_text(_dumps(content))
    part.replace(_file)
    _reader = before


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event in OPENING:
        for path in args[:1] if event == "open" else args[:2]:
            _look(path)
    elif event in STARTING:
        text = str(args)
        if "val_" in text and ".npy" in text:
            _refuse("train.py starts a program that reads the validation split, which is for the evaluation alone")


def _watched(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def watched(file: Any, *args: Any, **options: Any) -> Any:
        _look(file)
        return load(file, *args, **options)

    return watched


def _look(path: object) -> None:
    if not isinstance(path, str | bytes | os.PathLike) or _reader == _me():
        return
    try:
        if os.fspath(path) == _file:
            _refuse("train.py opens the file in which the harness attests the result")
        stat = _stat(path)
    except (OSError, ValueError, TypeError):
        return
    if (stat.st_dev, stat.st_ino) in _guarded:
        name = Path(os.fsdecode(path)).name
        _refuse(f"train.py opens the validation split ({name}), which is for the evaluation alone")


def _pin(values: Mapping[str, Any]) -> Pins:
    return {name: (value, getattr(value, "__code__", None)) for name, value in values.items()}


def _is_original(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    if isinstance(value, FunctionType):
        source = getattr(module, "__file__", None)  # those that are built in have none, and no Python functions
        return source is not None and value.__code__.co_filename.startswith(str(Path(source).parent))
    if isinstance(value, type):
        return value.__module__.split(".")[0] == module.__name__.split(".")[0]
    return isinstance(value, BuiltinFunctionType) or type(value).__name__ in ORIGINAL_KINDS
