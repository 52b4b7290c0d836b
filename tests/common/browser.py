"""A headless Chromium driven through its DevTools pipe, without driver, port or package.

Messages are JSON with a zero byte after each, on file descriptors 3 and 4 of the browser.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
PATIENCE = 60.0


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. It collects console messages and network requests."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._numbers = reading, writing, itertools.count(1)
        self._left, self._session = b"", ""
        self._loaded = False
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Show a file, and clear the messages and requests of an earlier one. `fragment` is a part of it: `#12`."""
        phone = width < 600
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self._call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        # An empty page in between: going to a fragment of the same page would not load it again.
        for url in ("about:blank", path.resolve().as_uri() + fragment):
            self.console, self.requests, self._loaded = [], [], False
            self._call("Page.navigate", url=url)
            deadline = time.monotonic() + PATIENCE
            while not self._loaded:
                self._take(self._receive(deadline))

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def scripts(self, on: bool) -> None:
        """Let pages that are opened from now on run their scripts, or not."""
        self._call("Emulation.setScriptExecutionDisabled", value=not on)

    def move(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float, count: int = 1) -> None:
        for number in range(1, count + 1):
            self._mouse("mousePressed", x, y, number)
            self._mouse("mouseReleased", x, y, number)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        """Press at `start`, move to `end` in some steps, and release."""
        self._mouse("mousePressed", *start)
        for step in range(1, steps + 1):
            part = step / steps
            self.move(*(a + part * (b - a) for a, b in zip(start, end, strict=True)))
        self._mouse("mouseReleased", *end)

    def tap(self, x: float, y: float) -> None:
        self.touch(x, y)
        self.lift()

    def touch(self, x: float, y: float) -> None:
        self._call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])

    def lift(self) -> None:
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self._call("Input.insertText", text=text)

    def _mouse(self, kind: str, x: float, y: float, count: int = 1) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def press(self, key: str, code: int) -> None:
        text = "\r" if key == "Enter" else ""  # without it, Enter does not send a form
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        data = self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._take(answer)

    def _take(self, event: dict[str, Any]) -> None:
        data = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(data["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.console.append(str(data["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(data["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(str(data["entry"]["text"]))

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser has not answered for {PATIENCE:.0f} s"
            chunk = os.read(self._reading, 1 << 16)
            assert chunk, "the browser has ended"
            self._left += chunk
        message, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextlib.contextmanager
def browser(program: str, folder: Path) -> Iterator[Page]:
    """Start a browser with an empty profile in `folder`."""
    to_browser, from_browser = _high_pipe(), _high_pipe()
    argv = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    env = {**os.environ, "HOME": str(folder)}
    with (folder / "browser.log").open("wb") as log:
        pid = os.posix_spawn(
            program,
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, to_browser[0], 3),
                (os.POSIX_SPAWN_DUP2, from_browser[1], 4),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
            ],
            setpgroup=0,
        )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Page(from_browser[0], to_browser[1])
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose ends are not 3 or 4, the descriptors that the browser uses."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
