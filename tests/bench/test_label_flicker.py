"""Flicker against labels, held against the two-frame function and against counting by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.accuracy import evaluate
from segformer_deploy.bench.label_counts import LabelFlicker
from segformer_deploy.bench.labels import Label, pair_files
from segformer_deploy.video.flicker import flicker_against_labels
from tests.cli.test_cli import json_of, place, segdeploy
from tests.little import little_spec

__all__ = ["place"]


def label(values: Any) -> Label:
    """255 is void."""
    values = np.asarray(values, np.int64)
    return Label(np.where(values == 255, 0, values), values != 255)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_as_counted_pixel_by_pixel(seed: int, frames: int) -> None:
    random = np.random.default_rng(seed)
    maps = random.integers(0, 3, (frames, 4, 5))
    labels = random.choice([0, 1, 255], (frames, 4, 5))
    meter = LabelFlicker()
    still = changed = 0
    for number in range(frames):
        meter.update(maps[number], label(labels[number]))
        for y, x in np.ndindex(4, 5) if number else ():
            if labels[number, y, x] == labels[number - 1, y, x] != 255:
                still += 1
                changed += int(maps[number, y, x] != maps[number - 1, y, x])
    assert meter.share == (changed / still if still else None)
    if frames == 2:
        expected = flicker_against_labels(maps[0], maps[1], labels[0], labels[1])
        assert meter.share == expected


def test_another_size_begins_anew() -> None:
    meter = LabelFlicker()
    meter.update(np.zeros((2, 2), np.uint8), label(np.zeros((2, 2))))
    meter.update(np.ones((3, 3), np.uint8), label(np.zeros((3, 3))))
    assert meter.share is None


def sequence(folder: Path) -> tuple[Path, Path]:
    """Two frames of one label; the second picture is red where the first is green, in a corner."""
    images, labels = folder / "images", folder / "labels"
    for one in (images, labels):
        one.mkdir()
    for number in range(2):
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[..., 1] = 200
        picture[:32, :48] = (0, 0, 200) if number else (0, 200, 0)
        cv2.imwrite(str(images / f"{number}.png"), picture)
        cv2.imwrite(str(labels / f"{number}.png"), np.ones((64, 96), np.uint8))
    return images, labels


def test_evaluate_tells_it_where_frames_follow_each_other(tmp_path: Path) -> None:
    images, labels = sequence(tmp_path)

    def segment(frame: Any) -> Any:
        return (frame[..., 2] < 100).astype(np.uint8)

    pairs = pair_files(images, labels)
    report = evaluate(segment, little_spec(), pairs, sequence=True)
    assert report.flicker == pytest.approx(25.0)
    assert evaluate(segment, little_spec(), pairs).flicker is None


def test_eval_video_and_stabilise(place: Path) -> None:
    images, labels = sequence(place)
    arguments = ("eval", place / "build" / "little.onnx", "--images", images, "--labels", labels)
    plain = json_of(segdeploy(*arguments, "--video", "--json", cwd=place))
    steady = json_of(segdeploy(*arguments, "--video", "--stabilise", "--json", cwd=place))
    assert plain["flicker"] == pytest.approx(25.0, abs=2)
    # The picture did change there, so the stabiliser follows.
    assert steady["flicker"] <= plain["flicker"] + 1
    alone = segdeploy(*arguments, "--stabilise", cwd=place)
    assert alone.returncode == 1
    assert "--video" in alone.stderr
