"""Stills, compared with Pillow."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from segformer_deploy.errors import MediaError, OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.image_header import HeaderError, read_header
from segformer_deploy.video.images import (
    image_size,
    list_images,
    natural_key,
    read_image,
    write_image,
)

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (5, 7, 3), np.uint8)
RGB = cv2.resize(SMALL, (70, 50), interpolation=cv2.INTER_CUBIC)
FORMATS = ("jpg", "png", "bmp", "tiff", "webp", "ppm")


def bgr_of(path: Path) -> np.ndarray:
    """What Pillow shows: upright, three channels."""
    # (Loading a TIFF turns it upright and drops the tag, so nothing is turned twice.)
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[:, :, ::-1]


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    if path.suffix == ".webp":
        options["lossless"] = True
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_reads_as_pillow_reads_it(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", Image.fromarray(RGB))
    picture = read_image(path)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - bgr_of(path)).max() <= (2 if ending == "jpg" else 0)
    assert image_size(path) == FrameSize(50, 70)


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{ending}"
    options = {"tiffinfo": {274: orientation}} if ending == "tiff" else {"exif": exif}
    save(path, Image.fromarray(RGB), **options)
    picture, expected = read_image(path), bgr_of(path)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).max() <= 2
    assert image_size(path) == FrameSize(*expected.shape[:2])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_grey_palette_and_transparent_png(tmp_path: Path, mode: str) -> None:
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([RGB, RGB[:, :, 0]]))
    else:
        image = Image.fromarray(RGB).convert(mode)
    path = save(tmp_path / "a.png", image)
    # convert("RGB") drops alpha without laying anything underneath, which is what we promise.
    np.testing.assert_array_equal(read_image(path), bgr_of(path))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_lose_their_lower_half(tmp_path: Path, ending: str) -> None:
    deep = RNG.integers(0, 65536, (50, 70), np.uint16)
    path = save(tmp_path / f"a.{ending}", Image.fromarray(deep))
    expected = np.dstack([(deep >> 8).astype(np.uint8)] * 3)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("mode", ["L", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_kind_of_tiff_is_turned_once(
    tmp_path: Path, orientation: int, compression: str | None, mode: str
) -> None:
    grey = RGB[:, :, 0].copy() if mode == "L" else RGB[:, :, 0].astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    Image.fromarray(grey).save(path, tiffinfo={274: orientation}, compression=compression)
    turned = np.asarray(
        ImageOps.exif_transpose(_tagged(Image.fromarray(RGB[:, :, 0].copy()), orientation))
    )
    np.testing.assert_array_equal(read_image(path)[:, :, 1], turned)


def _tagged(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[274] = orientation
    return image


def test_a_transparent_tiff_is_refused_because_its_colours_would_be_wrong(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.dstack([RGB, RGB[:, :, 0]])))
    with pytest.raises(MediaError, match="transparency"):
        read_image(path)


def test_the_content_counts_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, format="PNG")
    np.testing.assert_array_equal(read_image(path), RGB[:, :, ::-1])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
def test_a_cut_off_jpeg_is_an_error(tmp_path: Path, part: float, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[270] = "x" * 300
    big = cv2.resize(SMALL, (400, 300), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(big).save(path, quality=95, progressive=progressive, exif=exif)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(MediaError):
        read_image(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_no_cut_off_file_gives_a_picture(tmp_path: Path, ending: str) -> None:
    whole = save(tmp_path / f"a.{ending}", Image.fromarray(RGB)).read_bytes()
    reference = read_image(tmp_path / f"a.{ending}")
    path = tmp_path / f"cut.{ending}"
    # TIFF tags may lie behind the pixels, and a PNG's last chunk says nothing new: any cut
    # must fail, or (a byte of padding at the very end) give the same picture.
    for length in sorted({1, 3, 9, 20, 40, *range(60, len(whole), max(1, len(whole) // 40))}):
        path.write_bytes(whole[:length])
        try:
            picture = read_image(path)
        except MediaError:
            continue
        np.testing.assert_array_equal(picture, reference, err_msg=f"{length} of {len(whole)}")


def test_a_flipped_bit_in_a_png_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(MediaError, match="checksum"):
        read_image(path)


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"II+\0",
            b"P6 ",
            b"RIFF\0\0\0\0WEBP",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_any_bytes_give_a_header_or_a_header_error(magic: bytes, rest: bytes) -> None:
    try:
        header = read_header(magic + rest)
    except HeaderError:
        return
    assert 1 <= header.orientation <= 8


def png_that_claims(height: int, width: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_giant_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*args: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    path = tmp_path / "giant.png"
    path.write_bytes(png_that_claims(20000, 20000))
    with pytest.raises(MediaError, match="400 million"):
        read_image(path)
    with pytest.raises(MediaError, match="400 million"):
        image_size(path)
    path.write_bytes(png_that_claims(10000, 10000))
    with pytest.raises(AssertionError, match="decoded"):
        read_image(path)


@pytest.mark.parametrize(("name", "content"), [("empty.jpg", b""), ("text.png", b"hello " * 50)])
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=name):
        read_image(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_image(tmp_path / "none.jpg")


def test_a_ppm_of_another_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 2 1 100\n" + bytes(6))
    with pytest.raises(MediaError, match="largest value"):
        read_image(tmp_path / "a.ppm")


def test_frames_are_sorted_as_people_count(tmp_path: Path) -> None:
    names = ["frame10.jpg", "frame2.PNG", "frame1.webp", "Frame3.bmp", "a.txt", "._frame4.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder5.jpg").mkdir()
    found = [path.name for path in list_images(tmp_path)]
    assert found == ["frame1.webp", "frame2.PNG", "Frame3.bmp", "frame10.jpg"]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True))
def test_numbers_in_names_sort_by_value(numbers: list[int]) -> None:
    names = sorted((f"shot_{number}.png" for number in numbers), key=natural_key)
    assert names == [f"shot_{number}.png" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=8, unique=True), st.randoms())
def test_any_names_have_one_order(names: list[str], random: Random) -> None:
    ordered = sorted(names, key=natural_key)
    random.shuffle(names)
    assert sorted(names, key=natural_key) == ordered


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MediaError, match="no images"):
        list_images(tmp_path)


def test_written_stills_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), RGB[:, :, ::-1])
    write_image(tmp_path / "a.jpg", RGB)
    assert (
        np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - RGB[:, :, ::-1]).mean() < 4
    )
    with pytest.raises(OutputError, match="cannot be written as"):
        write_image(tmp_path / "a.xyz", RGB)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.jpg"}
