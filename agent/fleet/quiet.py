"""Keep Dask's own messages away from the terminal: they are tracebacks of what this program says in a sentence."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

LOGGERS = ("distributed", "tornado", "asyncio", "bokeh", "dask", "concurrent")


def silence(log: Path | None = None) -> None:
    """Send the messages of Dask and of what it uses to a file, or drop them.

    Args:
        log: None drops them.
    """
    import distributed  # noqa: F401  it configures its loggers when it is imported

    handler: logging.Handler = logging.NullHandler()
    if log is not None:
        handler = logging.FileHandler(log, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in LOGGERS]
    for name in {*LOGGERS, *known}:
        logger = logging.getLogger(name)
        for old in [*logger.handlers]:
            logger.removeHandler(old)
        if name in LOGGERS:
            logger.addHandler(handler)
        logger.propagate = name not in LOGGERS
    warnings.filterwarnings("ignore", module=r"distributed(\.|$)")
