"""What a stream did so far, as numbers: for the status line, JSON, the page and Prometheus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

StreamState = Literal["starting", "running", "stalled", "reconnecting", "ended"]


@dataclass(frozen=True)
class StreamStats:
    """One source's counts at one moment. ``frames_in = shown + dropped + pending``, always.

    Attributes:
        name: the source as it was named, without passwords.
        state: ``stalled``: connected, but no frame for longer than the stall limit.
        size: of the newest frame, "HxW"; empty before the first.
        frames_in: frames that the source gave.
        shown: frames whose result went to every output.
        dropped: frames that a newer one replaced before they were segmented.
        pending: frames under way just now.
        corrupt: damaged or missing packets and frames.
        stalls, reconnects: how often it stalled; how often it was opened again.
        fps_in, fps_shown: over the last seconds.
        latency_ms: of the newest frame shown: from its capture until its result was out.
        p50_ms, p99_ms: of that latency over the whole run; None before the first frame.
        flicker: share of the pixels that changed class though the picture did not, over the last
            seconds; None where it is not measured.
        error: what is wrong just now, one line; empty where nothing is.
        seconds: since the stream was opened.
    """

    name: str
    state: StreamState = "starting"
    size: str = ""
    frames_in: int = 0
    shown: int = 0
    dropped: int = 0
    pending: int = 0
    corrupt: int = 0
    stalls: int = 0
    reconnects: int = 0
    fps_in: float = 0.0
    fps_shown: float = 0.0
    latency_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    flicker: float | None = None
    error: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; floats to three digits after the point."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
