"""Headless Chromium for tests of pages, spoken to over a pipe in its DevTools protocol; nothing else is needed."""

import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
FLAGS = (
    "--headless=new --remote-debugging-pipe --no-first-run --disable-gpu --disable-dev-shm-usage --no-sandbox "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars"
)  # no sandbox: tests run as root in containers, and the pages are ours


class Browser:
    """One page. `requests` are the addresses that it asked for, `problems` what it refused or could not load."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (read, self._write), (self._read, write) = os.pipe(), os.pipe()
        command = f'exec "$0" {FLAGS} --user-data-dir="$1" about:blank 3<&{read} 4>&{write}'
        environment = {**os.environ, "HOME": self._home.name}
        arguments = ["bash", "-c", command, PROGRAM, self._home.name]
        self._process = subprocess.Popen(
            arguments, pass_fds=(read, write), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self._number, self._buffer, self._events = itertools.count(1), b"", []
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._session = ""
        target = next(one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attach = {"targetId": target["targetId"], "flatten": True}
        self._session = self._call("Target.attachToTarget", **attach)["sessionId"]
        for domain in ("Page", "Network", "Log", "DOM"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._home.cleanup()

    def open(self, address: str) -> None:
        """Goes to an address and waits until it is loaded."""
        self._call("Page.navigate", url=address)
        self._wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a script, whatever the page's own policy allows."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Clicks on what leads to another page, and waits for it."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self._wait("Page.loadEventFired")

    def choose_files(self, selector: str, *paths: pathlib.Path) -> None:
        """Puts files into a form's field."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def resize(self, width: int, height: int = 900) -> None:
        """Makes the window so many pixels wide and high."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, path: pathlib.Path, **settings: Any) -> pathlib.Path:
        """Writes what the window shows."""
        answer = self._call("Page.captureScreenshot", **settings)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._number)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, event: str) -> None:
        while not any(one == event for one in self._events):
            self._note(self._next())
        self._events.clear()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser is gone"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, facts = event.get("method", ""), event.get("params", {})
        if method == "Page.loadEventFired":
            self._events.append(method)
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif method == "Log.entryAdded":
            self.problems.append(facts["entry"]["text"])
