"""The line of a live source, and what a journal gets to read."""

from __future__ import annotations

import time

import pytest

from segformer_deploy.cli.live_status import line_from_stats, live_status
from segformer_deploy.video.live.stats import StreamStats


def test_the_line_tells_what_matters() -> None:
    stats = StreamStats("camera:0", "running", fps_in=29.97, shown=7, dropped=20, fps_shown=8.0)
    assert line_from_stats(stats) == "camera:0: running, in 30.0/s, shown 7 (8.0/s), dropped 20"
    lost = StreamStats(
        "rtsp://u:***@host/x",
        "reconnecting",
        error="Connection refused",
        p50_ms=147.2,
        p99_ms=164.0,
        stalls=1,
        reconnects=3,
        flicker=0.0123,
    )
    assert line_from_stats(lost) == (
        "rtsp://u:***@host/x: reconnecting, Connection refused, in 0.0/s, shown 0 (0.0/s), "
        "dropped 0, latency p50 147 ms, p99 164 ms, stalls 1, reconnects 3, flicker 1.23 %"
    )


def test_without_a_terminal_changes_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    now = [StreamStats("camera:0", "running")]
    told = ""

    def until(words: str) -> None:
        nonlocal told
        limit = time.monotonic() + 10
        while words not in told and time.monotonic() < limit:
            told += capsys.readouterr().err
            time.sleep(0.02)
        assert words in told

    with live_status(lambda: list(now)):
        now[0] = StreamStats("camera:0", "stalled", error="no frame for 5 s")
        until("camera:0: stalled, no frame for 5 s")
        now[0] = StreamStats("camera:0", "running", reconnects=1)
        until("reconnects 1")
        now[0] = StreamStats("camera:0", "ended")
    told += capsys.readouterr().err
    assert told.count("\n") == 2
