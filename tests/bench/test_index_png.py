"""Palette PNGs give indices, as Pillow does; damaged ones give errors, not class 0."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.bench.index_png import index_png
from segformer_deploy.bench.labels import read_values
from segformer_deploy.errors import MediaError
from segformer_deploy.runtime.plain_png import SIGNATURE


def palette_png(indices: np.ndarray, bits: int, colours: list[int], **options: object) -> bytes:
    picture = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    picture.putpalette(colours)
    file = BytesIO()
    picture.save(file, "png", bits=bits, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def written(folder: Path, data: bytes, name: str = "label.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@given(
    bits=st.sampled_from([1, 2, 4, 8]),
    height=st.integers(1, 9),
    width=st.integers(1, 19),
    seed=st.integers(0, 1000),
)
def test_palette_indices_as_pillow_reads_them(
    tmp_path_factory: pytest.TempPathFactory, bits: int, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 2**bits, (height, width))
    data = palette_png(indices, bits, rng.integers(0, 256, 3 * 2**bits).tolist())
    assert data[24:26] == bytes([bits, 3])  # bit depth, colour type 3
    path = written(tmp_path_factory.mktemp("png"), data)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_values(path), np.asarray(picture))
    np.testing.assert_array_equal(read_values(path), indices)


def test_transparency_and_a_colour_profile_change_no_index(tmp_path: Path) -> None:
    indices = np.arange(256).reshape(16, 16)
    data = palette_png(indices, 8, [7] * 768, transparency=0, icc_profile=b"profile", gamma=0.3)
    assert b"tRNS" in data
    assert b"iCCP" in data
    np.testing.assert_array_equal(read_values(written(tmp_path, data)), indices)


def test_a_value_of_grey_marked_transparent_stays_a_value(tmp_path: Path) -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    file = BytesIO()
    Image.fromarray(indices).save(file, "png", transparency=3)
    assert b"tRNS" in file.getvalue()
    np.testing.assert_array_equal(read_values(written(tmp_path, file.getvalue())), indices)


def test_filtered_rows_and_pixels_in_several_chunks(tmp_path: Path) -> None:
    # Filter 2 ("up") on a palette image, its data cut into two IDAT chunks.
    indices = np.random.default_rng(0).integers(0, 16, (6, 8)).astype(np.uint8)
    above = np.vstack([np.zeros((1, 8), np.uint8), indices[:-1]])
    rows = b"".join(b"\2" + (row - up).tobytes() for row, up in zip(indices, above, strict=True))
    packed = zlib.compress(rows)
    data = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 3, 0, 0, 0))
    data += chunk(b"PLTE", bytes(range(48))) + chunk(b"IDAT", packed[:9])
    data += chunk(b"IDAT", packed[9:]) + chunk(b"IEND", b"")
    path = written(tmp_path, data)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), indices)
    np.testing.assert_array_equal(read_values(path), indices)


def test_colour_pngs_are_left_alone() -> None:
    file = BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, "png")
    assert index_png(file.getvalue(), Path("x.png")) == (file.getvalue(), 1)


def whole_png() -> bytes:
    indices = np.random.default_rng(1).integers(0, 200, (40, 30))
    return palette_png(indices, 8, [5] * 768)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_cut_off_files_are_refused(tmp_path: Path, share: float) -> None:
    data = whole_png()
    cut = max(len(SIGNATURE), int(share * len(data)))
    with pytest.raises(MediaError, match=r"cut off|no header"):
        read_values(written(tmp_path, data[:cut]))


def test_a_flipped_bit_is_found_wherever_it_lies(tmp_path: Path) -> None:
    data = whole_png()
    begin = data.index(b"IDAT")
    for place in (17, begin + 20, len(data) // 2, len(data) - 20):
        broken = bytearray(data)
        broken[place] ^= 4
        with pytest.raises(MediaError, match=r"damaged|cut off"):
            read_values(written(tmp_path, bytes(broken)))


def test_rows_missing_behind_correct_check_sums_are_found(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    packed = zlib.compress(b"\0abcd" * 4)
    for pixels in (packed[:-6], b""):
        data = SIGNATURE + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        with pytest.raises(MediaError, match="cut off"):
            read_values(written(tmp_path, data))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_below_8_bits_is_ambiguous_and_refused(tmp_path: Path, bits: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + b"\x11" * bits))
    path = written(tmp_path, SIGNATURE + header + pixels + chunk(b"IEND", b""))
    with pytest.raises(MediaError, match=f"grey PNG of {bits} bit"):
        read_values(path)
