"""FFmpeg's network code in a process of its own, which can be stopped whatever it waits for.

PyAV connects with Python's lock held and without a deadline. In this process a server that says
nothing would stop every thread; in another one it stops only that, and there an alarm ends it::

    WorkerLink                                              main()
    one line: address, size, rate                  ──>      connect
                                                   <──      "ok", or why not, as one line
    8 bytes: time, then H * W * 3/2 bytes: yuv420p ──>      encode and send
                                                   <──      "ok", or why not
    end of file                                    ──>      close and end
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import numpy as np

from segformer_deploy.spec import FrameSize
from segformer_deploy.video.push_links import (
    CLOCK,
    ContainerLink,
    Link,
    LinkError,
    LinkSettings,
)

_OPEN_S, _SEND_S, _CLOSE_S = 5, 3, 1
_PATIENCE_S = 0.4
_MINE = "from segformer_deploy.video.push_worker import main; main()"


class WorkerLink(Link):
    """A `ContainerLink` in another process: it answers within some seconds, or is gone."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MINE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is for us, and we tell it
            )
        except OSError as error:
            raise LinkError(f"no process can be started: {error.strerror}") from None
        size, rate = self._settings.size, self._settings.rate
        # Not as an argument: every user of the machine can read those, passwords included.
        told = [self._settings.url, size.height, size.width, *rate.as_integer_ratio()]
        self._ask(json.dumps(told).encode() + b"\n")

    def send(self, picture: Any) -> None:
        self._ask(struct.pack("<q", picture.pts), picture.to_ndarray().data)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def abort(self) -> None:
        if (process := self._process) is not None:
            process.kill()

    def _ask(self, *parts: bytes | memoryview) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer == b"ok\n":
            return
        if answer:
            raise LinkError(answer.decode("utf-8", "replace").strip())
        silent = self._process.wait() == -signal.SIGALRM
        raise LinkError("it does not answer in time" if silent else "the connection broke")


def main() -> None:
    """Take pictures from standard input until it ends, and send them."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    url, height, width, *rate = json.loads(sys.stdin.buffer.readline())
    settings = LinkSettings(url, FrameSize(height, width), Fraction(*rate))
    link = ContainerLink(settings)
    signal.alarm(_OPEN_S)
    _answer(link.open)
    length = height * width * 3 // 2
    while len(head := sys.stdin.buffer.read(8)) == 8:
        data = sys.stdin.buffer.read(length)
        if len(data) < length:
            break
        planes = np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts = struct.unpack("<q", head)[0]
        picture.time_base = Fraction(1, CLOCK)
        signal.alarm(_SEND_S)
        _answer(link.send, picture)
    signal.alarm(_CLOSE_S)
    link.close()


def _answer(call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except LinkError as error:
        print(str(error).replace("\n", " "), flush=True)
        os._exit(1)  # closing what is broken could wait for the network again
    signal.alarm(0)
    print("ok", flush=True)
