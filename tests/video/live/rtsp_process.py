"""The test camera in a process of its own.

PyAV holds the interpreter's lock while it opens and closes a push (`avformat_write_header` and
`av_write_trailer`), so a server in a thread of the pushing process could never answer it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.video.live.h264 import Image
from tests.video.live.rtsp_server import RtspServer


class RtspServerProcess:
    """As `RtspServer`, attribute by attribute; `make_frame` must be a module's function."""

    def __init__(
        self, make_frame: Callable[[int], Image], size: tuple[int, int], **settings: Any
    ) -> None:
        # Not forked: this process has threads. The other ends when our end of the pipe closes.
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make_frame, size, settings), daemon=True
        )
        self._process.start()
        theirs.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if callable(getattr(RtspServer, name, None)):
            return lambda *args, **options: self._ask(name, args, options)
        return self._ask(name, (), {})

    def __enter__(self) -> RtspServerProcess:
        self._ask("start", (), {})
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its process, and raise what went wrong in it."""
        try:
            self._ask("close", (), {})
        finally:
            self._ours.close()
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()

    def _ask(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._ours.send((name, args, options))
        if not self._ours.poll(10):
            raise TimeoutError(f"the camera's process does not answer {name}")
        answer = self._ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, make_frame: Callable[[int], Image], size: Any, settings: Any) -> None:
    server = RtspServer(make_frame, size, **settings)
    with contextlib.suppress(EOFError):
        while True:
            name, args, options = pipe.recv()
            try:
                asked = getattr(server, name)
                pipe.send(asked(*args, **options) if callable(asked) else asked)
            except Exception as error:
                pipe.send(error)
    server.kill()
