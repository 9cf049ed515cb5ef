"""Headless Chromium over the WebDriver protocol (W3C), which is JSON over HTTP: no library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, base: str) -> None:
        self._base = base

    def open(self, url: str) -> None:
        self._call("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What the function body `script` returns in the page."""
        return self._call("POST", "/execute/sync", script=script, args=list(arguments))

    def until(self, expression: str, timeout_s: float = 15.0) -> Any:
        """The expression's value in the page, once it is truthy."""
        end = time.monotonic() + timeout_s
        while True:
            found = self.run(f"return {expression}")
            if found:
                return found
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/click")

    def type(self, selector: str, keys: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/value", text=keys)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def canvas(self, selector: str = "#picture") -> npt.NDArray[np.uint8]:
        """The canvas's own pixels: uint8 `[H, W, 3]`, BGR."""
        url = self.run("return document.querySelector(arguments[0]).toDataURL()", selector)
        data = base64.b64decode(url.partition(",")[2])
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def downloads_to(self, folder: Path) -> None:
        self._call(
            "POST",
            "/chromium/send_command",
            cmd="Browser.setDownloadBehavior",
            params={"behavior": "allow", "downloadPath": str(folder)},
        )

    def log(self) -> list[str]:
        """Errors that the page wrote to its console."""
        entries = self._call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _find(self, selector: str) -> str:
        found = self._call("POST", "/element", using="css selector", value=selector)
        return str(found[_ELEMENT])

    def _call(self, method: str, path: str, **data: Any) -> Any:
        return call(method, self._base + path, data)


def call(method: str, url: str, data: dict[str, Any]) -> Any:
    body = json.dumps(data).encode() if method == "POST" else None
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def browser(profile: Path, *, width: int = 1280, height: int = 800) -> Iterator[Browser]:
    """A fresh browser with its own profile; all its processes end with it."""
    assert DRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [DRIVER, f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(base)
        arguments = [*_QUIET, f"--window-size={width},{height}", f"--user-data-dir={profile}"]
        options = {"binary": CHROMIUM, "args": arguments}
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = call("POST", f"{base}/session", {"capabilities": {"alwaysMatch": always}})
        address = f"{base}/session/{session['sessionId']}"
        try:
            yield Browser(address)
        finally:
            call("DELETE", address, {})
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def _wait_for(base: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            if call("GET", f"{base}/status", {})["ready"]:
                return
        except OSError:
            pass
        assert time.monotonic() < end, "chromedriver does not start"
        time.sleep(0.05)
