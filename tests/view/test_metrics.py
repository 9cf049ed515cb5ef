"""Prometheus' text, read by a parser that shares nothing with the writer."""

from __future__ import annotations

import re

import pytest

from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.view.metrics import Seen, metrics_text
from tests.view.makers import get, street_view

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> tuple[Series, dict[str, str]]:
    """Series and types of a text in format 0.0.4; AssertionError where it is none."""
    series: Series = {}
    types: dict[str, str] = {}
    helped: set[str] = set()
    assert text.endswith("\n")
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in helped
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
        else:
            found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)", line)
            assert found, line
            name, rest, value = found.groups()
            assert name in types
            labels = []
            while rest:
                label = re.match(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\n"])*)"(?:,|$)', rest)
                assert label, rest
                plain = re.sub(r'\\([\\n"])', lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])
                labels.append((label[1], plain))
                rest = rest[label.end() :]
            key = (name, tuple(labels))
            assert key not in series, "a series twice"
            series[key] = float(value)
    return series, types


NAMES = ['a"b', "back\\slash\\n", "two\nlines", "straße 道", "", "x{y},z=1", "same", "same"]


def test_odd_names_come_back() -> None:
    stats = [
        StreamStats(name, "running", frames_in=10 + i, shown=7, dropped=3 + i)
        for i, name in enumerate(NAMES)
    ]
    seen = [Seen(name, 2, 40, True, 5) for name in NAMES]
    series, types = parsed(metrics_text(stats, seen))
    for i, name in enumerate(NAMES):
        labels = (("source", name), ("stream", str(i)))
        assert series["segdeploy_frames_in_total", labels] == 10 + i
        assert series["segdeploy_frames_dropped_total", labels] == 3 + i
        assert series["segdeploy_view_encodings_total", labels] == 40
        assert series["segdeploy_recording", labels] == 1
    assert all(kind == "counter" for name, kind in types.items() if name.endswith("_total"))
    assert all(kind == "gauge" for name, kind in types.items() if not name.endswith("_total"))


def test_what_no_encoding_holds_does_not_spoil_it() -> None:
    text = metrics_text([StreamStats("bad\udcff.mp4")], [])
    assert 'source="bad?.mp4"' in text
    parsed(text)


def test_times_are_seconds_and_the_unknown_is_left_out() -> None:
    known = StreamStats("a", "running", latency_ms=12.5, p50_ms=10.0, p99_ms=40.0, fps_in=29.97)
    series, _ = parsed(metrics_text([known, StreamStats("b", "stalled")], []))
    a, b = (("source", "a"), ("stream", "0")), (("source", "b"), ("stream", "1"))
    assert series["segdeploy_latency_last_seconds", a] == pytest.approx(0.0125)
    assert series["segdeploy_latency_p50_seconds", a] == pytest.approx(0.010)
    assert series["segdeploy_latency_p99_seconds", a] == pytest.approx(0.040)
    assert series["segdeploy_fps_in", a] == 29.97
    assert (series["segdeploy_up", a], series["segdeploy_up", b]) == (1, 0)
    assert ("segdeploy_latency_last_seconds", b) not in series
    assert ("segdeploy_flicker_ratio", a) not in series


def test_over_http() -> None:
    with street_view(stats=lambda: [StreamStats("street", "running", frames_in=3)]) as view:
        status, headers, body = get(view, "/metrics")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        series, _ = parsed(body.decode())
        labels = (("source", "street"), ("stream", "0"))
        assert series["segdeploy_frames_in_total", labels] == 3
        assert series["segdeploy_viewers", labels] == 0
