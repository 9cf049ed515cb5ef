"""Frames, a small run that offers them, and a client that reads what a view sends."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from itertools import islice
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import CLASS_NAMES, PALETTE, StreetVideo
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.video.overlay import class_shares
from segformer_deploy.video.shown import Shown
from segformer_deploy.view.view import View

SMALL = FrameSize(72, 128)
STREET = list(islice(StreetVideo(3, FrameSize(144, 256), 15), 12))
"""Pictures with their labels."""


def shown(
    index: int = 0,
    *,
    stream: int = 0,
    picture: npt.NDArray[np.uint8] | None = None,
    class_map: npt.NDArray[Any] | None = None,
    classes: int = len(CLASS_NAMES),
    timed: bool = True,
) -> Shown:
    """A frame of the street, or of the picture and class map given."""
    if picture is None or class_map is None:
        picture, class_map = STREET[index % len(STREET)]
    now = time.monotonic()
    frame = Frame(
        picture,
        index,
        index / 20,
        f"{index:06d}",
        index * 50_000 if timed else None,
        Fraction(1, 1_000_000) if timed else None,
        captured_s=now - 0.03,
    )
    return Shown(stream, frame, class_map, class_shares(class_map, classes), now, 30.0)


class Run:
    """Offers frames on its own thread, as a run would; a context manager."""

    def __init__(
        self, view: View, *, fps: float = 20.0, frames: int | None = None, streams: int = 1
    ) -> None:
        self.view = view
        self.offered = 0
        self.offer_s: list[float] = []
        self._period = 1 / fps
        self._most = frames
        self._streams = streams
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        start = time.monotonic()
        while not self._stopping.is_set() and self.offered != self._most:
            for stream in range(self._streams):
                one = shown(self.offered, stream=stream)
                before = time.perf_counter()
                self.view.offer(one)
                self.offer_s.append(time.perf_counter() - before)
            self.offered += 1
            self._stopping.wait(max(0.0, start + self.offered * self._period - time.monotonic()))

    def stats(self) -> list[StreamStats]:
        return [
            StreamStats(name="street", state="running", frames_in=self.offered, shown=self.offered)
        ]

    def wait(self) -> None:
        self._thread.join()

    def __enter__(self) -> Run:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def street_view(bind: str = "0", **more: Any) -> View:
    """A view of the street on a free port of this machine."""
    settings: dict[str, Any] = {
        "names": ("street",),
        "class_names": CLASS_NAMES,
        "palette": PALETTE,
        "recordings": None,
        **more,
    }
    return View(f"127.0.0.1:{bind}" if bind.isdigit() else bind, **settings)


def get(
    view: View, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body; `headers` with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, fields, answer.read()
    finally:
        connection.close()


def raw(view: View, request: bytes, *, timeout_s: float = 5.0) -> bytes:
    """Everything that the server answers to these bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", view.port), timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            pass
        return answer


@contextmanager
def watching(view: View, path: str = "/stream", **headers: str) -> Iterator[Messages]:
    """A viewer: the messages of ``/stream`` as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        # Both: the socket stays open as long as one of them does.
        with closing(connection.getresponse()) as answer:
            yield Messages(answer)
    finally:
        connection.close()


class Messages:
    """Messages from a response, one by one."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def next(self) -> tuple[dict[str, Any], bytes, bytes]:
        """Header, JPEG, PNG; EOFError at the end."""
        (length,) = struct.unpack(">I", self._read(4))
        header = json.loads(self._read(length))
        return header, self._read(header["jpeg"]), self._read(header["png"])

    def frame(self) -> tuple[dict[str, Any], bytes, bytes]:
        """The next message that is a frame."""
        while (found := self.next())[0]["kind"] != "frame":
            pass
        return found

    def state(self) -> dict[str, Any]:
        """The next message that is a state."""
        while (found := self.next())[0]["kind"] != "state":
            pass
        return found[0]

    def _read(self, length: int) -> bytes:
        data = self.answer.read(length)
        if len(data) < length:
            raise EOFError
        return data


def decoded(data: bytes) -> npt.NDArray[Any]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait for it; AssertionError where it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
