"""Processes that share the rows of a training step on a CPU, one for each core.

MLX runs one operation at a time in each thread that uses it, mostly on one core. Threads would not do: MLX queues ten
operations or so for a whole process (MAX_ACTIVE_TASKS in its mlx/transforms.cpp), so threads wait for each other. On 2
cores a micro-step of the cpu profile took 133 ms alone, 165 ms beside another in a thread, 134 ms beside a process.
"""

import contextlib
import mmap
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any

import numpy as np
import numpy.typing as npt

Values = dict[str, npt.NDArray[np.float32]]
# (values, results, *arrays of its part) -> anything small. It fills the results, which have names and shapes of values.
Work = Callable[..., Any]


class Workers:
    """This process and `count` - 1 copies of it. Create them before MLX computes anything: a copy has no threads.

    Values and results are in shared memory, which is Linux's memfd.

    Args:
        count: number of processes, at least 1.
        work: what each computes, with MLX or NumPy.
    """

    def __init__(self, count: int, work: Work) -> None:
        self._work = work
        self._sets: list[Values] = []  # the values, then the results of each process
        self._others: list[tuple[Connection, ForkProcess]] = []
        if count == 1:
            return
        self._memory = os.memfd_create("workers")
        context = multiprocessing.get_context("fork")
        for number in range(1, count):
            ours, theirs = context.Pipe()
            open_ends = [ours, *(connection for connection, _ in self._others)]
            args = (theirs, open_ends, work, self._memory, number)
            process = context.Process(target=_serve, args=args, daemon=True)
            process.start()
            theirs.close()
            self._others.append((ours, process))

    def run(self, values: Values, parts: Sequence[tuple[npt.NDArray[Any], ...]]) -> list[tuple[Values, Any]]:
        """Return the results of all parts, computed at the same time. They are valid until the next call.

        Args:
            values: what all parts have in common; its names and shapes stay the same from call to call.
            parts: as many as there are processes.

        Raises:
            RuntimeError: `work` failed in another process. Its own exceptions pass.
            SystemExit: another process ended.
        """
        if not self._sets:
            self._sets = self._shared(values)
        for name in values:
            self._sets[0][name][...] = values[name]
        for (connection, process), part in zip(self._others, parts[1:], strict=True):
            with _ending_as(process):
                connection.send(part)
        answers = [self._work(self._sets[0], self._sets[1], *parts[0])]
        for connection, process in self._others:
            with _ending_as(process):
                answers.append(connection.recv())
        for answer in answers:
            if isinstance(answer, RuntimeError):
                raise answer
        return list(zip(self._sets[1:], answers, strict=True))

    def _shared(self, values: Values) -> list[Values]:
        """Return the arrays that this process and the others see, and tell the others their shapes."""
        if not self._others:
            return [{name: np.empty_like(value) for name, value in values.items()} for _ in range(2)]
        shapes = {name: value.shape for name, value in values.items()}
        os.ftruncate(self._memory, (2 + len(self._others)) * sum(value.nbytes for value in values.values()))
        for connection, _ in self._others:
            connection.send(shapes)
        return _arrays(self._memory, shapes)


def _arrays(memory: int, shapes: Mapping[str, tuple[int, ...]]) -> list[Values]:
    """Return all sets of float32 arrays in shared memory."""
    if not shapes:  # the other end closed before it sent any
        return []
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    return [
        {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(shapes.items(), np.split(floats, ends[:-1]), strict=True)
        }
        for floats in np.frombuffer(mmap.mmap(memory, 0), np.float32).reshape(-1, ends[-1])
    ]


@contextlib.contextmanager
def _ending_as(process: ForkProcess) -> Iterator[None]:
    """End this process as a worker ended, by its signal or exit code: whoever reads the log then sees one cause."""
    try:
        yield
    except (EOFError, OSError):
        process.join()
        code = process.exitcode or 0
        if code < 0:
            os.kill(os.getpid(), -code)
        # A positive exit code has its message in the log already.
        raise SystemExit(code or "error: a worker process ended without a result") from None


def _serve(connection: Connection, open_ends: Sequence[Connection], work: Work, memory: int, number: int) -> None:
    """Compute parts until the other end closes, as it does when its process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for end in open_ends:  # copies of the parent's ends, which would keep them open
        end.close()
    received = _received(connection)
    sets = _arrays(memory, next(received, {}))
    for part in received:
        try:
            answer = work(sets[0], sets[1 + number], *part)
        except Exception:
            # As text: not every exception can be pickled.
            answer = RuntimeError(f"a worker failed:\n{traceback.format_exc()}")
        with contextlib.suppress(OSError):
            connection.send(answer)


def _received(connection: Connection) -> Iterator[Any]:
    """Yield what is sent until the other end closes."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield connection.recv()
