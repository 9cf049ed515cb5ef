"""What all requests share: the streams, who may look, what is known of the run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.view.access import Access, RefusedError
from segformer_deploy.view.channel import Channel, Lane
from segformer_deploy.view.message import message
from segformer_deploy.view.metrics import Seen, metrics_text
from segformer_deploy.view.recorder import Recorder

MOST_VIEWERS = 64
_STATE_S = 0.2
_STATIC = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "plot.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "classes.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class StaticFile:
    """A file of the page, whole in memory."""

    kind: str
    data: bytes


def static_files() -> dict[str, StaticFile]:
    """The page's files by their names."""
    folder = Path(__file__).with_name("static")
    return {name: StaticFile(kind, (folder / name).read_bytes()) for name, kind in _STATIC.items()}


@dataclass
class Site:
    """One server's shared state. `access` is set once the port is known.

    Attributes:
        info: the answer to ``/info``: what does not change.
        stats: counts of all streams; called by any thread.
        closing: set when the view closes; whoever sends then stops.
    """

    names: Sequence[str]
    channels: Sequence[Channel]
    recorders: Sequence[Recorder]
    info: dict[str, Any]
    stats: Callable[[], Sequence[StreamStats]]
    recordings: Path | None
    static: dict[str, StaticFile] = field(default_factory=static_files)
    access: Access = field(default_factory=lambda: Access(None, "", 0))
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._viewers = 0
        self._state_lock = threading.Lock()
        self._state = b""
        self._state_s = float("-inf")

    @contextmanager
    def viewer(self, lane: Lane) -> Iterator[None]:
        """Count a viewer of `lane` while it stays; RefusedError (503) where there are too many."""
        with self._lock:
            if self._viewers >= MOST_VIEWERS:
                raise RefusedError(
                    503, f"{MOST_VIEWERS} viewers are looking already: try again later."
                )
            self._viewers += 1
            lane.viewers += 1
        try:
            yield
        finally:
            with self._lock:
                self._viewers -= 1
                lane.viewers -= 1

    @property
    def viewers(self) -> int:
        return self._viewers

    def state_message(self) -> bytes:
        """How all streams are, for the page. Made at most five times a second for everybody."""
        with self._state_lock:
            now = time.monotonic()
            if now - self._state_s >= _STATE_S:
                self._state = message({"kind": "state", **self.state()})
                self._state_s = now
            return self._state

    def state(self) -> dict[str, Any]:
        return {
            "stats": [one.to_dict() for one in self.stats()],
            "recorders": [one.status() for one in self.recorders],
            "errors": [channel.error for channel in self.channels],
            "viewers": self._viewers,
        }

    def stats_json(self) -> bytes:
        return json.dumps([one.to_dict() for one in self.stats()]).encode()

    def metrics(self) -> bytes:
        seen = [
            Seen(
                name,
                sum(lane.viewers for lane in channel.lanes.values()),
                sum(lane.encodings for lane in channel.lanes.values()),
                recorder.recording,
                recorder.dropped,
            )
            for name, channel, recorder in zip(
                self.names, self.channels, self.recorders, strict=True
            )
        ]
        return metrics_text(self.stats(), seen).encode()
