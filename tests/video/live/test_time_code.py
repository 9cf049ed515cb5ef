"""The time code comes through H.264, and nothing else passes for one."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest

from tests.video.live.h264 import Coding, Decoder, Encoder
from tests.video.live.time_code import block_corners, code_bits, now_ms, read_stamp, stamp

VALUES = [0, 1, 0x5555_5555_5555, 0xFFFF_FFFF_FFFF]


def noise(height: int, width: int) -> np.ndarray[Any, Any]:
    """The hardest picture to compress, so the worst neighbour to have."""
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(128, 128), (240, 320), (250, 330), (720, 1280)])
def test_code_survives_h264_at_crf_28(size: tuple[int, int]) -> None:
    encoder, decoder = Encoder(size, Coding(fps=30, gop=30, bframes=0, crf=28)), Decoder()
    values = [*VALUES, *range(now_ms(), now_ms() + 200, 33)]
    coded = []
    for index, value in enumerate(values):
        image = noise(*size)
        stamp(image, value)
        coded += encoder.encode(image, index * 3000)
    coded += encoder.flush()
    images = [image for _, data in coded for image in decoder.decode(data)]
    images += decoder.decode(None)
    assert [read_stamp(image) for image in images] == values


def test_luma_plane_alone_carries_the_code() -> None:
    image = noise(240, 320)
    stamp(image, 12345)
    luma = av.VideoFrame.from_ndarray(image, format="bgr24").to_ndarray(format="gray")
    assert read_stamp(luma) == 12345


def test_code_shows_through_an_overlay() -> None:
    image = noise(240, 320)
    stamp(image, 12345)
    blended = image // 2 + np.array([0, 90, 60], np.uint8)
    assert read_stamp(blended) == 12345


@pytest.mark.parametrize("grey", [0, 16, 128, 255])
def test_plain_picture_has_no_code(grey: int) -> None:
    assert read_stamp(np.full((240, 320, 3), grey, np.uint8)) is None


def test_noise_has_no_code() -> None:
    assert read_stamp(noise(240, 320)) is None


@pytest.mark.parametrize("block", [0, 20, 47, 48, 63])
def test_one_wrong_block_is_noticed(block: int) -> None:
    image = noise(240, 320)
    stamp(image, now_ms())
    top, left = block_corners(240, 320)[block]
    image[top : top + 16, left : left + 16] ^= 255
    assert read_stamp(image) is None


def test_picture_too_small_for_a_code() -> None:
    small = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="no room"):
        stamp(small, 1)
    assert read_stamp(small) is None


@pytest.mark.parametrize("value", [-1, 1 << 48])
def test_value_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        code_bits(value)
