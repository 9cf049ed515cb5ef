"""Receivers for pushed streams: FFmpeg in another process, and a small RTSP server of our own."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OPTIONS = {
    "rtsp": ("rtsp_flags=listen", "listen_timeout=30"),
    "rtmp": ("listen=1",),
    "udp": (),
}
FORMATS = {"rtsp": "", "rtmp": "flv", "udp": "mpegts"}
SCRIPT = """
import sys, av
url, name, *options = sys.argv[1:]
options = dict(one.split("=", 1) for one in options)
with av.open(url, format=name or None, options=options, timeout=(30, 3)) as file:
    file.streams.video[0].thread_type = "SLICE"  # frame threads keep the last pictures back
    for frame in file.decode(video=0):
        image = frame.to_ndarray(format="bgr24")
        # A server that begins to listen does not know the first picture's time.
        pts = -1 if frame.pts is None else round(frame.pts * frame.time_base * 90000)
        head = b"%d %d %d\\n" % (pts, *image.shape[:2])
        sys.stdout.buffer.write(head + image.tobytes())
        sys.stdout.buffer.flush()
"""


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Receiver:
    """FFmpeg, waiting for a stream.

    Attributes:
        got: time in ticks of 90 kHz (-1: unknown) and picture (BGR), in order of arrival.
    """

    def __init__(self, scheme: str, port: int = 0) -> None:
        kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
        self.port = port or free_port(kind)
        self.url = f"{scheme}://127.0.0.1:{self.port}" + ("" if scheme == "udp" else "/live/x")
        self.got: list[tuple[int, np.ndarray[Any, Any]]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, self.url, FORMATS[scheme], *OPTIONS[scheme]],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        table = Path("/proc/net/udp" if scheme == "udp" else "/proc/net/tcp")
        wait_until(lambda: f":{self.port:04X} 00000000:0000" in table.read_text())

    def _read(self) -> None:
        assert self._process.stdout is not None
        while head := self._process.stdout.readline():
            pts, height, width = map(int, head.split())
            data = self._process.stdout.read(height * width * 3)
            if len(data) < height * width * 3:
                return
            self.got.append((pts, np.frombuffer(data, np.uint8).reshape(height, width, 3)))

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self) -> None:
        """Until the stream has ended."""
        self._process.wait(20)
        self._thread.join(5)
        self._skip_if_crashed()

    def wait_for(self, count: int) -> None:
        """Until so many pictures have come."""

        def come() -> bool:
            self._skip_if_crashed()
            return len(self.got) >= count

        wait_until(come)

    def _skip_if_crashed(self) -> None:
        if self._process.poll() == -signal.SIGSEGV:
            pytest.skip("this build of PyAV crashes where it listens for RTMP, as up to PyAV 17")

    def kill(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
        self._process.wait()
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class LittleServer:
    """Speaks as much RTSP as a publisher needs.

    Attributes:
        asked: the requests' methods, of all connections.
        described: the last session description.
        received: bytes of what came after RECORD, of all connections.
        connections: how many there were.

    Args:
        user: `(name, password)` that must be proved by Digest.
        mute: accept connections and say nothing.
        deaf: read nothing after RECORD.
        refuse: answer this status to ANNOUNCE.
    """

    def __init__(
        self,
        user: tuple[str, str] | None = None,
        *,
        mute: bool = False,
        deaf: bool = False,
        refuse: str = "",
    ) -> None:
        self._user, self._mute, self.deaf, self._refuse = user, mute, deaf, refuse
        self.asked: list[str] = []
        self.described = ""
        self.received = b""
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            if not self._mute:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(4096)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines[1:])
                length = int(headers.get("Content-Length", 0))
                while len(buffer) < length:
                    buffer += connection.recv(4096)
                body, buffer = buffer[:length], buffer[length:]
                if self._answer(connection, lines[0], headers, body.decode()) == "RECORD":
                    break
            while not self.deaf:
                data = connection.recv(65536)
                if not data:
                    return
                self.received += data
        except OSError:
            return

    def _answer(
        self, connection: socket.socket, first: str, headers: dict[str, str], body: str
    ) -> str:
        method, url, _ = first.split(" ")
        self.asked.append(method)
        status, extra = "200 OK", ""
        if self._user is not None and not self._proved(method, url, headers):
            status = "401 Unauthorized"
            extra = (
                'WWW-Authenticate: Basic realm="a"\r\n'
                'WWW-Authenticate: Digest realm="a, b", nonce="xyz"\r\n'
            )
        elif method == "ANNOUNCE":
            self.described = body
            status = self._refuse or status
        elif method == "SETUP":
            extra = f"Transport: {headers['Transport']}\r\nSession: 77;timeout=60\r\n"
        elif method == "RECORD":
            assert headers["Session"] == "77"
        answer = f"RTSP/1.0 {status}\r\nCSeq: {headers['CSeq']}\r\n{extra}\r\n"
        connection.sendall(answer.encode())
        return method if status == "200 OK" else ""

    def _proved(self, method: str, url: str, headers: dict[str, str]) -> bool:
        assert self._user is not None
        given = headers.get("Authorization", "")
        found = re.search(r'response="(\w+)"', given)

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        secret = md5(f"{self._user[0]}:a, b:{self._user[1]}")
        expected = md5(f"{secret}:xyz:{md5(f'{method}:{url}')}")
        return given.startswith("Digest ") and found is not None and found[1] == expected

    def drop(self) -> None:
        """End all connections."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def __enter__(self) -> LittleServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
