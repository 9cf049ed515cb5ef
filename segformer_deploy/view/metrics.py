"""Counts and times as Prometheus reads them: text format 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from segformer_deploy.video.live.stats import StreamStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Seen:
    """What the view itself counts of one stream.

    Attributes:
        source: the stream's name.
        viewers: connected to it.
        encodings: frames encoded for the page and for MJPEG.
        recording: whether it is being recorded.
        recording_dropped: frames that the recorder left out so far.
    """

    source: str
    viewers: int
    encodings: int
    recording: bool
    recording_dropped: int


Value = float | None
_Family = tuple[str, str, str, Callable[[StreamStats], Value]]


def _milli(value: float | None) -> Value:
    return None if value is None else value / 1e3


_STREAM: tuple[_Family, ...] = (
    ("up", "gauge", "1 while frames come in, else 0.", lambda s: s.state == "running"),
    ("frames_in_total", "counter", "Frames that the source gave.", lambda s: s.frames_in),
    ("frames_shown_total", "counter", "Frames whose result went out.", lambda s: s.shown),
    ("frames_dropped_total", "counter", "Frames replaced by newer ones.", lambda s: s.dropped),
    ("stalls_total", "counter", "How often the source stalled.", lambda s: s.stalls),
    ("reconnects_total", "counter", "How often it was opened again.", lambda s: s.reconnects),
    ("corrupt_total", "counter", "Damaged or missing packets and frames.", lambda s: s.corrupt),
    ("fps_in", "gauge", "Frames per second from the source.", lambda s: s.fps_in),
    ("fps_shown", "gauge", "Frames per second shown.", lambda s: s.fps_shown),
    (
        "latency_last_seconds",
        "gauge",
        "Capture to result, newest frame.",
        lambda s: _milli(s.latency_ms),
    ),
    (
        "latency_p50_seconds",
        "gauge",
        "Capture to result, median of the run.",
        lambda s: _milli(s.p50_ms),
    ),
    (
        "latency_p99_seconds",
        "gauge",
        "Capture to result, 99th percentile of the run.",
        lambda s: _milli(s.p99_ms),
    ),
    ("flicker_ratio", "gauge", "Pixels that changed class for no reason.", lambda s: s.flicker),
)

_SEEN: tuple[tuple[str, str, str, Callable[[Seen], Value]], ...] = (
    ("viewers", "gauge", "Viewers of the live page's streams.", lambda s: s.viewers),
    ("view_encodings_total", "counter", "Frames encoded for viewers.", lambda s: s.encodings),
    ("recording", "gauge", "1 while it is being recorded, else 0.", lambda s: s.recording),
    (
        "recording_dropped_total",
        "counter",
        "Frames that the recorder left out.",
        lambda s: s.recording_dropped,
    ),
)


def metrics_text(stats: Sequence[StreamStats], seen: Sequence[Seen]) -> str:
    """The whole answer to ``GET /metrics``; times in seconds.

    Each series carries `source`, the stream's name, and `stream`, its number: two sources may
    have the same name. What is not known has no series.
    """
    lines: list[str] = []
    for name, kind, text, value in _STREAM:
        _family(lines, name, kind, text, ((one.name, value(one)) for one in stats))
    for name, kind, text, count in _SEEN:
        _family(lines, name, kind, text, ((one.source, count(one)) for one in seen))
    return "".join(f"{line}\n" for line in lines)


def _family(
    lines: list[str], name: str, kind: str, text: str, values: Iterable[tuple[str, Value]]
) -> None:
    lines += [f"# HELP segdeploy_{name} {text}", f"# TYPE segdeploy_{name} {kind}"]
    for stream, (source, value) in enumerate(values):
        if value is not None:
            labels = f'source="{escaped(source)}",stream="{stream}"'
            lines.append(f"segdeploy_{name}{{{labels}}} {_number(value)}")


def escaped(text: str) -> str:
    """A label's value: backslash, quote and line feed escaped, as the format wants it."""
    # What no UTF-8 can hold (a file name's stray bytes) would make the whole answer unreadable.
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 9))
