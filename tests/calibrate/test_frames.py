"""Calibration frames: what the runtime sees, spread evenly, with others left to judge on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.calibrate.frames import (
    GATE_SEED,
    STREET_SEED,
    STREET_SIZE,
    FrameSet,
    NetworkFrame,
    StreetFrames,
    _even,
    frames_from_source,
    leaving_some,
    rest_of_source,
)
from segformer_deploy.errors import FrameError, InputError, MediaError
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.streets import CLASS_NAMES, street_frame
from tests.video.makers import index_of, make_video, picture

SQUARE = ResizeRule.stretch_to(FrameSize(64, 64))
AS_IT_IS = ResizeRule("none", None)


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for index in range(count):
        cv2.imwrite(str(path / f"{index}.png"), picture(index))
    return path


def indices_of(frames: FrameSet) -> list[int]:
    return [index_of(frame.picture) for frame in frames]


@pytest.fixture(params=["folder", "video"])
def twelve(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twelve frames, each of which tells its index."""
    if request.param == "folder":
        return folder_of(tmp_path / "pictures", 12)
    return make_video(tmp_path / "drive.mp4", 12)


# Which frames ---------------------------------------------------------------------------------


@given(st.integers(0, 3000), st.integers(1, 400))
def test_indices_are_spread_evenly(count: int, samples: int) -> None:
    found = _even(count, samples)
    assert len(found) == min(count, samples)
    assert found == sorted(set(found))
    assert all(0 <= index < count for index in found)
    if 1 < samples <= count:
        assert (found[0], found[-1]) == (0, count - 1)
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("samples", [0, -1])
def test_fewer_samples_than_one_are_refused(twelve: Path, samples: int) -> None:
    with pytest.raises(InputError, match=str(samples)):
        frames_from_source(twelve, SQUARE, samples)


def test_a_source_gives_its_frames_in_order(twelve: Path) -> None:
    frames = frames_from_source(twelve, SQUARE, 100)
    assert len(frames) == 12
    assert indices_of(frames) == list(range(12))
    assert frames.origin == str(twelve)
    few = frames_from_source(twelve, SQUARE, 4)
    assert indices_of(few) == [0, 4, 7, 11]
    assert len(few) == 4


@pytest.mark.parametrize("samples", [1, 4, 9, 11])
def test_the_rest_is_disjoint(twelve: Path, samples: int) -> None:
    used = indices_of(frames_from_source(twelve, SQUARE, samples))
    rest = rest_of_source(twelve, SQUARE, samples, 100)
    assert rest is not None
    left = indices_of(rest)
    assert sorted(used + left) == list(range(12))
    two = rest_of_source(twelve, SQUARE, samples, 2)
    assert two is not None
    assert set(indices_of(two)) <= set(left)
    assert len(two) == min(2, len(left))


@pytest.mark.parametrize("samples", [12, 200])
def test_there_may_be_no_rest(twelve: Path, samples: int) -> None:
    assert rest_of_source(twelve, SQUARE, samples, 5) is None


@given(st.integers(1, 500), st.integers(1, 300))
def test_a_quarter_is_left_to_judge_on(count: int, samples: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segformer_deploy.calibrate.frames._count", lambda _path: count)
        found = leaving_some(Path("pictures"), samples)
    assert found == max(1, min(samples, count * 3 // 4))


def test_a_set_can_be_gone_through_again(twelve: Path) -> None:
    frames = frames_from_source(twelve, SQUARE, 3)
    once, twice = list(frames), list(frames)
    assert [frame.sha256 for frame in once] == [frame.sha256 for frame in twice]
    assert [frame.name for frame in once] == [frame.name for frame in twice]
    assert len({frame.sha256 for frame in once}) == 3
    assert len({frame.name for frame in once}) == 3


# As the network sees them ---------------------------------------------------------------------


def test_pictures_that_fit_enter_pixel_for_pixel_in_rgb(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 2)
    for index, frame in enumerate(frames_from_source(folder, AS_IT_IS, 5)):
        assert (frame.image.dtype, frame.image.shape) == (np.uint8, (64, 96, 3))
        assert np.array_equal(frame.image, picture(index)[..., ::-1])
        assert np.array_equal(frame.picture, picture(index))
        assert (frame.name, frame.label) == (f"{index}.png", None)


def test_frames_are_resized_as_the_runtime_s_are(tmp_path: Path) -> None:
    """Pillow's bilinear filter: the rule's words, computed by Pillow itself."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (150, 201, 3), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "noise.png"), source)
    (frame,) = frames_from_source(folder, ResizeRule.stretch_to(FrameSize(72, 104)), 1)
    pillow = image.fromarray(np.ascontiguousarray(source[..., ::-1]))
    expected = np.asarray(pillow.resize((104, 72), image.Resampling.BILINEAR))
    assert np.array_equal(frame.image, expected)


def test_frames_of_any_size_keep_their_shape_where_the_rule_says_so(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 1)
    cv2.imwrite(str(folder / "other.png"), np.full((128, 64, 3), 9, np.uint8))
    rule = ResizeRule("short_side", None, short_side=64)
    shapes = [frame.image.shape for frame in frames_from_source(folder, rule, 5)]
    assert shapes == [(64, 96, 3), (128, 64, 3)]


def test_the_hash_is_of_shape_and_pixels() -> None:
    image = np.arange(64 * 66 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 66, 3)
    frame = NetworkFrame("one", image, image)
    expected = hashlib.sha256(b"64x66x3:" + bytes(image.ravel().tolist())).hexdigest()
    assert frame.sha256 == expected
    assert NetworkFrame("two", image, image[::2]).sha256 == expected
    turned = image.reshape(66, 64, 3)
    assert NetworkFrame("one", turned, turned).sha256 != expected
    upside_down = image[::-1]
    copied = NetworkFrame("one", upside_down.copy(), image)
    assert NetworkFrame("one", upside_down, image).sha256 == copied.sha256 != expected


# Streets --------------------------------------------------------------------------------------


def test_streets_have_labels_and_seeds_of_their_own() -> None:
    frames = StreetFrames(2, ResizeRule.stretch_to(FrameSize(64, 96)), first_seed=STREET_SEED + 5)
    assert len(frames) == 2
    for number, frame in enumerate(frames):
        drawn, label = street_frame(STREET_SEED + 5 + number, STREET_SIZE)
        assert np.array_equal(frame.picture, drawn)
        assert frame.label is not None
        assert np.array_equal(frame.label, label)
        assert frame.label.max() < len(CLASS_NAMES)
        assert frame.image.shape == (64, 96, 3)
        assert frame.name == f"street-{STREET_SEED + 5 + number}"
    assert str(STREET_SEED + 6) in frames.origin


def test_no_street_both_calibrates_and_judges() -> None:
    assert GATE_SEED - STREET_SEED >= 1000


# Refusals -------------------------------------------------------------------------------------


def test_sources_without_frames_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "missing.mp4", tmp_path / "missing"):
        with pytest.raises(MediaError):
            frames_from_source(path, SQUARE, 4)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        frames_from_source(tmp_path / "text.mp4", SQUARE, 4)


def test_one_picture_is_no_source(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 1)
    with pytest.raises(MediaError, match="one picture"):
        frames_from_source(folder / "0.png", SQUARE, 4)


def test_a_damaged_picture_is_not_skipped_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 2)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    with pytest.raises(MediaError, match=r"1\.png"):
        list(frames_from_source(folder, SQUARE, 4))


def test_a_picture_too_small_for_the_network_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "small.png"), np.zeros((40, 90, 3), np.uint8))
    with pytest.raises(FrameError, match="40x90"):
        list(frames_from_source(folder, AS_IT_IS, 1))
