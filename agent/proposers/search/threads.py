"""Keep the model's matrices to one thread, because the machine's other cores belong to what it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Multiply and invert matrices in one thread; also a decorator.

    Where a run trains on every core, threads of a BLAS wait for one another by spinning: a report took 30 s instead
    of 7 then, and the run lost the time, too. On macOS Accelerate decides by itself.
    """
    import numpy  # noqa: F401 (only a library that is loaded is limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
