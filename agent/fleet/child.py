"""A scheduler or a station as a child of a decider, which ends with it.

    python -m agent.fleet.child JSON

Its standard input is a pipe that nobody writes to: its end means that the decider is gone, however that happened. It
prints one line once it is connected.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

GRACE_SECONDS = 20.0


def main(config: dict[str, Any]) -> int:
    """Run what `config` describes: `kind`, `tls`, and of a station `address`, `name` and `cores`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if config.get("cores"):
        os.sched_setaffinity(0, config["cores"])
    from agent.fleet.quiet import silence

    silence()
    tls = Path(config["tls"])
    if config["kind"] == "scheduler":
        from agent.fleet.scheduler import serve

        async def schedule() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, stop.set)
            loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is for the decider, which then ends this
            await serve("127.0.0.1", config.get("port", 0), tls, _ready, stop)

        asyncio.run(schedule())
        return 0
    from agent.fleet.security import Endpoint
    from agent.fleet.worker import work

    return asyncio.run(work(Endpoint(config["address"], tls), config["name"], _say, lambda: _ready("ready")))


def _ready(line: str) -> None:
    print(line, flush=True)


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(143)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
