"""A headless Chromium driven over a pipe by its DevTools protocol; standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60.0
FIRST_FREE = 10  # file descriptors of ours, well away from the 3 and 4 that the browser reads and writes


def find() -> str | None:
    """The browser's program, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page. ``requests``: every URL that was asked for; ``complaints``: console messages, errors, violations."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in, self._rest, self._number = to_browser, from_browser, b"", 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda event: event.get("id") == self._number, method)["result"]

    def open(self, url: str) -> None:
        """Load a page, images included."""
        self.call("Page.navigate", url=url)
        self._until(lambda event: event.get("method") == "Page.loadEventFired", url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """Click with the mouse on what an expression gives."""
        spot = self.evaluate(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def _until(self, wanted: Any, what: str) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while b"\0" not in self._rest:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, f"the browser went away during {what}"
                self._rest += chunk
            line, self._rest = self._rest.split(b"\0", 1)
            event = json.loads(line)
            self._note(event.get("method", ""), event.get("params", {}))
            assert "error" not in event, f"{what}: {event['error']}"
            if wanted(event):
                return event
        raise AssertionError(f"the browser did not answer {what} within {PATIENCE:g} s")

    def _note(self, method: str, details: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(details))


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh browser with an empty profile; it ends with the block."""
    program = find()
    assert program is not None
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, FIRST_FREE) for pair in (os.pipe(), os.pipe()) for end in pair]
    their_in, our_out, our_in, their_out = ends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}"]
        script = f'exec "$@" 3<&{their_in} 4>&{their_out}'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command], pass_fds=(their_in, their_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        try:
            yield Page(our_out, our_in)
        finally:
            os.close(our_out)
            os.close(our_in)
            process.terminate()
            process.wait(30)
