"""Resizing against Pillow and OpenCV, and what `prepare` accepts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.errors import FrameError
from segformer_deploy.runtime import native
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.runtime.resample import resize, vertical_first
from segformer_deploy.spec import FrameSize, ResizeRule

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
ORDER_OF_PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13


def variants() -> list[str]:
    best, _ = native.load(native.LIBRARY)
    return ["numpy", "baseline", best.variant] if best else ["numpy"]


VARIANTS = sorted(set(variants()))


def frame_of(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pillow(picture: Any, height: int, width: int, filter: str) -> Any:
    """Pillow's answer; in two steps where an older Pillow takes the axes in another order."""
    image = Image.fromarray(picture)
    order = vertical_first(*picture.shape[:2], height, width)
    if order and not ORDER_OF_PILLOW_13 and filter != "nearest":
        image = image.resize((picture.shape[1], height), FILTERS[filter])
    return np.asarray(image.resize((width, height), FILTERS[filter]))


side = st.integers(1, 300)


@settings(max_examples=150, deadline=None)
@given(side, side, side, side, st.sampled_from(sorted(FILTERS)), st.booleans())
def test_resize_equals_pillow_bit_for_bit(
    height: int, width: int, to_height: int, to_width: int, filter: Any, swap: bool
) -> None:
    picture = frame_of(height, width)
    expected = pillow(picture, to_height, to_width, filter)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIANTS:
            patch.setenv(native.VARIABLE, name)
            found = resize(picture, to_height, to_width, filter, swap=swap, threads=2)
            assert (found == (expected[..., ::-1] if swap else expected)).all(), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "sizes",
    [
        *((480, 640, 512, 512), (1080, 1920, 512, 512), (480, 640, 480, 512)),
        *((640, 480, 512, 512), (480, 640, 240, 640), (720, 64, 72, 512), (512, 512, 512, 512)),
    ],
    ids=str,
)
def test_sizes_of_cameras_equal_pillow(
    variant: str, filter: Any, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, variant)
    picture = frame_of(*sizes[:2], seed=1)
    # Blocks of black and white: bicubic overshoots there and must be clipped.
    picture[::32, :] = 255
    picture[1::32, :] = 0
    expected = pillow(picture, *sizes[2:], filter)
    for threads in (1, 3):
        assert (resize(picture, *sizes[2:], filter, threads=threads) == expected).all()


def test_the_axis_that_goes_first_matters_and_is_chosen_as_pillow_13_does() -> None:
    tall = frame_of(200, 60)
    assert vertical_first(200, 60, 50, 40)
    assert not vertical_first(60, 200, 40, 50)
    assert not vertical_first(200, 200, 100, 150)  # exactly twice as many rows lost
    in_rows_first = resize(resize(tall, 50, 60, "bilinear"), 50, 40, "bilinear")
    in_columns_first = resize(resize(tall, 200, 40, "bilinear"), 50, 40, "bilinear")
    assert (in_rows_first != in_columns_first).any()
    assert (resize(tall, 50, 40, "bilinear") == in_rows_first).all()


# ---- prepare ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel_format", ["bgr", "rgb"])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
def test_prepare_gives_rgb_at_the_size_of_the_rule(pixel_format: Any, filter: str) -> None:
    rgb = frame_of(90, 130)
    frame = rgb[..., ::-1] if pixel_format == "bgr" else rgb
    rule = ResizeRule("stretch", FrameSize(64, 96), filter=f"pillow-{filter}")  # type: ignore[arg-type]
    kept = frame.copy()
    found = prepare(frame, rule, pixel_format=pixel_format)
    assert (found == pillow(rgb, 64, 96, filter)).all()
    assert found.flags.c_contiguous
    assert (frame == kept).all()


@pytest.mark.parametrize("size", [FrameSize(64, 96), FrameSize(90, 130), FrameSize(200, 131)])
def test_opencv_bilinear_is_opencvs(size: FrameSize) -> None:
    bgr = frame_of(90, 130)
    rule = ResizeRule("stretch", size, filter="opencv-bilinear")
    expected = cv2.resize(bgr, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    assert (prepare(bgr, rule) == expected[..., ::-1]).all()
    assert (prepare(bgr, rule, pixel_format="rgb") == expected).all()


def test_short_side_and_none_follow_the_rule() -> None:
    frame = frame_of(100, 200)
    short = ResizeRule("short_side", None, short_side=80, long_side=150)
    assert prepare(frame, short).shape == (75, 150, 3)
    assert (prepare(frame, ResizeRule("none", None)) == frame[..., ::-1]).all()


def test_an_unchanged_rgb_frame_is_copied_not_shared() -> None:
    frame = frame_of(64, 64)
    found = prepare(frame, ResizeRule("none", None), pixel_format="rgb")
    assert (found == frame).all()
    assert not np.shares_memory(found, frame)


@pytest.mark.parametrize("library", ["pillow", "opencv"])
def test_out_is_filled_and_returned(library: str) -> None:
    frame = frame_of(100, 100)
    rule = ResizeRule("stretch", FrameSize(64, 80), filter=f"{library}-bilinear")  # type: ignore[arg-type]
    batch = np.zeros((2, 64, 80, 3), np.uint8)
    assert np.shares_memory(prepare(frame, rule, out=batch[1]), batch)
    assert (batch[1] == prepare(frame, rule)).all()
    assert not batch[0].any()


def test_views_give_what_their_copies_give() -> None:
    whole = frame_of(200, 300)
    rule = ResizeRule.stretch_to(FrameSize(64, 64))
    for view in (whole[20:150, 10:250], whole[::2, ::-1], whole.transpose(1, 0, 2)):
        assert (prepare(view, rule) == prepare(view.copy(), rule)).all()


@pytest.mark.parametrize(
    ("frame", "found", "expected"),
    [
        (np.zeros((20, 31, 3), np.uint8), "20x31", "at least 32x32"),
        (np.zeros((31, 64, 3), np.uint8), "31x64", "at least 32x32"),
        (np.zeros((0, 64, 3), np.uint8), "0x64", "at least 32x32"),
        (np.zeros((64, 64), np.uint8), r"\[64, 64\]", "height, width, 3"),
        (np.zeros((64, 64, 4), np.uint8), r"\[64, 64, 4\]", "height, width, 3"),
        (np.zeros((1, 64, 64, 3), np.uint8), r"\[1, 64, 64, 3\]", "height, width, 3"),
        (np.zeros((64, 64, 3), np.float32), "float32", "uint8"),
        (None, "NoneType", "NumPy array"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(frame: Any, found: str, expected: str) -> None:
    with pytest.raises(FrameError, match=found) as caught:
        prepare(frame, ResizeRule())
    assert expected in caught.value.expected


def test_the_smallest_frame_is_accepted() -> None:
    assert prepare(frame_of(32, 32), ResizeRule()).shape == (512, 512, 3)


def test_a_network_size_below_64_and_an_unknown_pixel_format_are_refused() -> None:
    with pytest.raises(FrameError, match="enter the network as 40x80"):
        prepare(frame_of(40, 80), ResizeRule("none", None))
    with pytest.raises(FrameError, match="'grey'"):
        prepare(frame_of(64, 64), ResizeRule(), pixel_format="grey")  # type: ignore[arg-type]


def test_an_out_that_does_not_fit_is_refused() -> None:
    frame, rule = frame_of(64, 64), ResizeRule.stretch_to(FrameSize(64, 64))
    read_only = np.zeros((64, 64, 3), np.uint8)
    read_only.setflags(write=False)
    outs = (
        *(np.zeros((64, 65, 3), np.uint8), np.zeros((64, 64, 3), np.int8), read_only, frame),
        np.zeros((64, 128, 3), np.uint8)[:, ::2],
    )
    for out in outs:
        with pytest.raises(FrameError, match="an out of"):
            prepare(frame, rule, out=out)
