"""The flicker score against a slow one, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError
from segformer_deploy.video.flicker import (
    BLUR,
    FlickerMeter,
    flicker_against_labels,
    flicker_against_picture,
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Class maps, labels and pictures of two frames."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    kind = draw(st.sampled_from([np.uint8, np.int32]))
    maps = [rng.integers(0, 3, shape).astype(kind) for _ in range(2)]
    labels = [rng.choice(np.array([0, 1, 255], np.uint8), shape) for _ in range(2)]
    spread = draw(st.sampled_from([1, 20, 256]))
    pictures = [rng.integers(0, spread, (*shape, 3)).astype(np.uint8) for _ in range(2)]
    return (*maps, *labels, *pictures)


def slow_blur(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    half = BLUR // 2

    def reflected(at: int, side: int) -> int:
        while not 0 <= at < side:
            at = -at if at < 0 else 2 * (side - 1) - at
            if side == 1:
                return 0
        return at

    out = np.zeros(picture.shape, float)
    for y in range(height):
        for x in range(width):
            for v in range(y - half, y + half + 1):
                for u in range(x - half, x + half + 1):
                    out[y, x] += picture[reflected(v, height), reflected(u, width)]
    return np.rint(out / BLUR**2)


def slow_share(before: Any, after: Any, still: Any) -> float | None:
    count = changed = 0
    for b, a, s in zip(before.ravel(), after.ravel(), still.ravel(), strict=True):
        count += bool(s)
        changed += bool(s) and a != b
    return changed / count if count else None


@settings(max_examples=50, deadline=None)
@given(pairs(), st.sampled_from([255, None, 0]))
def test_against_labels(frames: tuple[np.ndarray, ...], ignore: int | None) -> None:
    before, after, label_before, label_after, *_ = frames
    still = (label_before == label_after) & (ignore is None or label_after != ignore)
    found = flicker_against_labels(before, after, label_before, label_after, ignore=ignore)
    assert found == slow_share(before, after, still)


@settings(max_examples=40, deadline=None)
@given(pairs(), st.sampled_from([0, 3, 6, 40, 255]))
def test_against_the_picture(frames: tuple[np.ndarray, ...], threshold: int) -> None:
    before, after, _, _, *pictures = frames
    apart = np.abs(slow_blur(pictures[0]) - slow_blur(pictures[1])).max(axis=2)
    found = flicker_against_picture(before, after, *pictures, threshold)
    assert found == slow_share(before, after, apart <= threshold)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_it_is_a_share_and_knows_no_direction(frames: tuple[np.ndarray, ...]) -> None:
    before, after, label_before, label_after, one, other = frames
    found = flicker_against_labels(before, after, label_before, label_after)
    assert found == flicker_against_labels(after, before, label_after, label_before)
    assert found is None or 0 <= found <= 1
    assert flicker_against_picture(before, before, one, one) == 0
    assert flicker_against_picture(before, before + 1, one, one) == 1
    assert flicker_against_picture(before, after, one, other, 255) == (before != after).mean()


def test_where_nothing_holds_still_there_is_no_score() -> None:
    a, b = np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8)
    assert flicker_against_labels(a, a, a, b) is None
    assert flicker_against_labels(a, b, a + 255, a + 255) is None
    dark, light = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 200, np.uint8)
    assert flicker_against_picture(a, b, dark, light) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_the_meter_looks_at_the_middle_of_each_box(
    height: int, width: int, step: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, 2, (height, width)).astype(np.uint8) for _ in range(2)]
    picture, meter = np.full((height, width, 3), 90, np.uint8), FlickerMeter(step=step)
    assert meter(picture, maps[0]) is None
    found = meter(picture, maps[1])
    middles = [
        (min(y + step // 2, height - 1), min(x + step // 2, width - 1))
        for y in range(0, height, step)
        for x in range(0, width, step)
    ]
    changed = [maps[0][at] != maps[1][at] for at in middles]
    assert found == np.mean(changed)


def test_the_meter_counts_still_boxes_only() -> None:
    meter, calm = FlickerMeter(), np.zeros((8, 8), np.uint8)
    picture = np.zeros((8, 8, 3), np.uint8)
    meter(picture, calm)
    moved = picture.copy()
    moved[:4, :4] = 100  # one box of four
    assert meter(moved, calm + 1) == 1
    moved[:, :] = 250
    assert meter(moved, calm) == 1  # no box held still: the score is that of the pair before


def test_the_meter_forgets_what_is_long_ago() -> None:
    meter, calm = FlickerMeter(frames=3), np.zeros((8, 8), np.uint8)
    picture = np.zeros((8, 8, 3), np.uint8)
    scores = [meter(picture, calm + index % 2 if index < 3 else calm) for index in range(8)]
    assert scores == [None, 1, 1, 2 / 3, 1 / 3, 0, 0, 0] or scores == [
        *(None, 1, 1, 1, 2 / 3, 1 / 3, 0, 0)
    ]
    assert meter.score == 0
    meter.reset()
    assert meter.score is None
    assert meter(picture, calm + 1) is None


def test_another_size_begins_a_pair_anew() -> None:
    meter = FlickerMeter()
    meter(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    assert meter(np.zeros((16, 8, 3), np.uint8), np.ones((16, 8), np.int32)) is None
    assert meter(np.zeros((16, 8, 3), np.uint8), np.full((16, 8), 300, np.int32)) == 1


def test_the_meter_keeps_no_array_of_the_caller() -> None:
    meter, class_map = FlickerMeter(step=1), np.zeros((8, 8), np.uint8)
    picture = np.zeros((8, 8, 3), np.uint8)
    meter(picture, class_map)
    class_map[:], picture[:] = 1, 200
    assert meter(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)) == 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    a, b = np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8)
    with pytest.raises(FrameError, match=r"\[4, 6\]"):
        flicker_against_labels(a, b, a, a)
    with pytest.raises(FrameError):
        flicker_against_picture(a, a, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(FrameError):
        FlickerMeter()(np.zeros((4, 5, 3), np.uint8), b)
    with pytest.raises(ValueError, match="step=0"):
        FlickerMeter(step=0)
