"""Our PNG, held against OpenCV's: both ways, and what is left to OpenCV."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from segformer_deploy.runtime.plain_png import picture_from_png, png_from_picture

sides = st.integers(1, 40)
pictures = st.one_of(
    st.tuples(sides, sides, st.just(3)).flatmap(lambda s: st_numpy.arrays(np.uint8, s)),
    st.tuples(sides, sides).flatmap(lambda s: st_numpy.arrays(np.uint8, s)),
    st.tuples(sides, sides).flatmap(lambda s: st_numpy.arrays(np.uint16, s)),
)


@given(pictures)
def test_opencv_reads_what_we_write_and_so_do_we(picture: npt.NDArray[Any]) -> None:
    data = png_from_picture(picture)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert theirs is not None
    ours = picture_from_png(data)
    assert ours is not None
    for read in (theirs, ours):
        assert read.dtype == picture.dtype
        np.testing.assert_array_equal(read, picture)


@given(pictures, st.data())
def test_damage_is_noticed(picture: npt.NDArray[Any], data: st.DataObject) -> None:
    png = bytearray(png_from_picture(picture))
    place = data.draw(st.integers(0, len(png) - 1))
    png[place] ^= data.draw(st.integers(1, 255))
    assert picture_from_png(bytes(png)) is None
    assert picture_from_png(bytes(png[:place])) is None


def test_filtered_rows_are_left_to_a_library() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    _, encoded = cv2.imencode(".png", smooth)  # OpenCV filters such rows
    assert picture_from_png(encoded.tobytes()) is None


def test_a_header_that_claims_more_than_there_is() -> None:
    png = bytearray(png_from_picture(np.zeros((4, 4), np.uint8)))
    struct.pack_into(">I", png, 16, 5)
    struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
    assert picture_from_png(bytes(png)) is None


@pytest.mark.parametrize("shape", [(4, 4, 4), (0, 4), (4,)])
def test_other_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a picture of uint8"):
        png_from_picture(np.zeros(shape, np.uint8))
