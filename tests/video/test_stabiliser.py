"""Stabilised class maps, as a viewer sees them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.runtime import native, stabilise
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import StreetVideo
from segformer_deploy.video.stabiliser import Stabiliser, StabiliserSettings


def smooth_picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Blobs that a flow can follow."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def halves(height: int = 96, width: int = 128) -> np.ndarray:
    class_map = np.zeros((height, width), np.uint8)
    class_map[:, width // 2 :] = 3
    return class_map


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([np.uint8, np.int32]), st.integers(16, 70))
def test_the_first_frame_is_shown_as_it_is(seed: int, kind: type, side: int) -> None:
    class_map = np.random.default_rng(seed).integers(0, 9, (side, 33)).astype(kind)
    before = class_map.copy()
    shown = Stabiliser()(smooth_picture(seed, side, 33), class_map)
    assert np.array_equal(shown, before)
    assert shown.dtype == kind
    assert not np.shares_memory(shown, class_map)
    assert np.array_equal(class_map, before)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([np.uint8, np.int32]))
def test_what_has_settled_stays(seed: int, kind: type) -> None:
    picture, stabilise_ = smooth_picture(seed), Stabiliser()
    class_map = cv2.resize(
        np.random.default_rng(seed).integers(0, 4, (6, 8), dtype=np.uint8),
        (128, 96),
        interpolation=cv2.INTER_NEAREST,
    ).astype(kind)
    # Borders move to the picture's edges first; then nothing moves any more.
    shown = [stabilise_(picture, class_map) for _ in range(40)]
    assert np.array_equal(shown[-1], shown[-2])
    assert (shown[-1] != class_map).mean() < 0.2
    assert stabilise_.resets == 0


def test_one_class_everywhere_is_a_fixed_point() -> None:
    stabilise_, class_map = Stabiliser(), np.full((96, 128), 7, np.uint8)
    for index in range(6):
        assert (stabilise_(smooth_picture(index // 3), class_map) == 7).all()


@pytest.mark.parametrize("size", [1, 6, 40])
def test_what_flickers_over_a_still_picture_is_held(size: int) -> None:
    picture, stabilise_ = smooth_picture(1), Stabiliser()
    calm = np.zeros((96, 128), np.uint8)
    odd = calm.copy()
    odd[20 : 20 + size, 30 : 30 + size] = 2
    for _ in range(5):
        stabilise_(picture, calm)
    for index in range(12):
        assert (stabilise_(picture, odd if index % 2 else calm) == 0).all()


@pytest.mark.parametrize(
    ("asked", "delay"),
    [
        (StabiliserSettings(), 4),
        (StabiliserSettings(most_evidence=9), 9),
        (StabiliserSettings(past=12, trust=2, most_evidence=4), 3),
        (StabiliserSettings(past=12, trust=3, most_evidence=1), 0),
        (StabiliserSettings(past=10, trust=0), 0),
    ],
)
def test_a_true_change_follows_after_the_delay(asked: StabiliserSettings, delay: int) -> None:
    picture, stabilise_ = np.full((96, 128, 3), 90, np.uint8), Stabiliser(asked)
    assert asked.delay == delay
    for _ in range(12):
        stabilise_(picture, np.zeros((96, 128), np.int32))
    new = np.full((96, 128), 300, np.int32)
    seen = [bool((stabilise_(picture, new) == 300).all()) for _ in range(delay + 3)]
    assert seen == [False] * delay + [True] * 3


def test_a_new_object_in_the_picture_is_shown_at_once() -> None:
    still, stabilise_ = smooth_picture(2), Stabiliser()
    for _ in range(6):
        stabilise_(still, np.zeros((96, 128), np.uint8))
    picture, class_map = still.copy(), np.zeros((96, 128), np.uint8)
    picture[30:60, 40:70], class_map[30:60, 40:70] = (255, 0, 255), 5
    shown = stabilise_(picture, class_map)
    assert (shown == class_map).mean() > 0.995
    assert stabilise_.resets == 0


def test_a_moving_picture_takes_its_classes_along() -> None:
    large, truth = smooth_picture(4, 96, 300), np.zeros((96, 300), np.uint8)
    truth[:, 100:150] = 1
    large[:, 100:150] //= 3
    stabilise_ = Stabiliser()
    for index in range(12):
        window = slice(3 * index, 3 * index + 128)
        wrong = truth[:, window].copy()
        if index == 11:  # the whole bar is missed once, and is shown all the same
            wrong[:] = 0
        shown = stabilise_(np.ascontiguousarray(large[:, window]), wrong)
    assert (shown != truth[:, window]).mean() < 0.02


def test_a_cut_begins_anew() -> None:
    stabilise_, class_map = Stabiliser(), halves()
    for _ in range(6):
        stabilise_(smooth_picture(1), class_map)
    assert stabilise_.resets == 0
    after = class_map.copy()
    after[10, 10] = 9
    assert np.array_equal(stabilise_(255 - smooth_picture(8), after), after)
    assert stabilise_.resets == 1


def test_a_cut_between_two_streets_is_seen_and_driving_is_none() -> None:
    stabilise_, size = Stabiliser(), FrameSize(256, 256)
    for cuts, seed in enumerate((10_000_101, 10_000_102, 10_000_103)):
        for number, (picture, label) in enumerate(StreetVideo(seed, size, 30)):
            if number == 6:
                break
            stabilise_(picture, label)
        assert stabilise_.resets == cuts


def test_another_size_or_type_begins_anew() -> None:
    stabilise_ = Stabiliser()
    stabilise_(smooth_picture(1), halves())
    for resets, (height, width, kind) in enumerate(
        [(64, 128, np.uint8), (64, 128, np.int32), (128, 64, np.int32)], start=1
    ):
        class_map = halves(height, width).astype(kind)
        class_map[5, 5] = 4
        shown = stabilise_(smooth_picture(1, height, width), class_map)
        assert np.array_equal(shown, class_map)
        assert stabilise_.resets == resets


def test_reset_forgets_and_does_not_count() -> None:
    stabilise_, odd = Stabiliser(), halves()
    odd[10, 10] = 9
    for _ in range(3):
        stabilise_(smooth_picture(1), halves())
    stabilise_.reset()
    assert np.array_equal(stabilise_(smooth_picture(1), odd), odd)
    assert stabilise_.resets == 0


@pytest.mark.parametrize("shape", [(1, 1), (15, 200), (200, 15), (16, 16), (17, 300), (301, 16)])
def test_small_and_narrow_pictures(shape: tuple[int, int]) -> None:
    stabilise_ = Stabiliser()
    for index in range(3):
        class_map = np.full(shape, index, np.uint8)
        shown = stabilise_(np.zeros((*shape, 3), np.uint8), class_map)
        assert shown.shape == shape
    if min(shape) < stabilise.SMALLEST_SIDE:
        assert np.array_equal(shown, class_map)


def test_results_last_and_inputs_are_left_alone() -> None:
    stabilise_, kept = Stabiliser(), []
    for index in range(5):
        picture, class_map = smooth_picture(index), halves() + np.uint8(index)
        copies = picture.copy(), class_map.copy()
        shown = stabilise_(picture, class_map)
        assert np.array_equal(picture, copies[0])
        assert np.array_equal(class_map, copies[1])
        with pytest.raises(ValueError, match="read-only"):
            shown[0, 0] = 1
        kept.append((shown, shown.copy()))
    assert all(np.array_equal(shown, copy) for shown, copy in kept)


def test_views_are_taken_as_their_copies_are() -> None:
    one, other = Stabiliser(), Stabiliser()
    for index in range(4):
        picture = smooth_picture(index // 2)[:, ::-1]
        class_map = (halves(128, 96) + np.uint8(index % 2)).T
        shown = one(picture, class_map)
        assert np.array_equal(shown, other(picture.copy(), np.ascontiguousarray(class_map)))


def test_numpy_shows_what_c_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []
    for picture, label in StreetVideo(10_000_104, FrameSize(96, 128), 15):
        frames.append((picture, label))
        if len(frames) == 5:
            break
    compiled = Stabiliser()
    wanted = [compiled(*frame) for frame in frames]
    monkeypatch.setenv(native.VARIABLE, "numpy")
    plain = Stabiliser()
    assert all(np.array_equal(plain(*f), w) for f, w in zip(frames, wanted, strict=True))


@pytest.mark.parametrize(
    ("picture", "class_map"),
    [
        (np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)),
        (np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8)),
        (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 31), np.uint8)),
        (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int64)),
    ],
)
def test_other_arrays_are_refused(picture: np.ndarray, class_map: np.ndarray) -> None:
    with pytest.raises(FrameError):
        Stabiliser()(picture, class_map)


@pytest.mark.parametrize(
    "wrong",
    [{"reach": 0}, {"past": 16}, {"trust": -1}, {"most_evidence": 256}, {"cut_share": 1.5}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        StabiliserSettings(**wrong)
