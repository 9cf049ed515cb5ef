"""Label pictures: values, label map, void, sizes, and whose label is whose."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.bench.labels import Label, Pair, pair_files, pair_labels, read_label
from segformer_deploy.bench.labels import read_values as values_of
from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from tests.bench.fake_segmenters import spec_of

THREE = spec_of("a", "b", "c")


def save(path: Path, values: object, kind: type = np.uint8) -> Path:
    cv2.imwrite(str(path), np.array(values, kind))
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.png", np.uint8), ("x.png", np.uint16), ("x.tif", np.uint16), ("x.pgm", np.uint8)],
)
def test_grey_values_as_pillow_reads_them(tmp_path: Path, name: str, kind: type) -> None:
    most = np.iinfo(kind).max
    path = save(tmp_path / name, [[0, 1, 2], [17, 255, most]], kind)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(values_of(path), np.asarray(picture))
    assert values_of(path).tolist() == [[0, 1, 2], [17, 255, most]]


def test_equal_channels_are_one_value(tmp_path: Path) -> None:
    values = np.array([[0, 1], [2, 9]], np.uint8)
    opaque = np.full_like(values, 255)
    for channels in ([values] * 3, [values] * 3 + [opaque]):
        path = save(tmp_path / "x.png", np.dstack(channels))
        np.testing.assert_array_equal(values_of(path), values)


def test_colours_are_refused_with_a_next_step(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", [[[128, 64, 128], [0, 0, 0]]])
    with pytest.raises(MediaError, match="colours, not class indices") as caught:
        values_of(path)
    assert "indices" in caught.value.next_step
    half = np.dstack([np.ones((2, 2), np.uint8)] * 3 + [np.full((2, 2), 128, np.uint8)])
    with pytest.raises(MediaError, match="transparent"):
        values_of(save(tmp_path / "y.png", half))


def test_files_that_are_no_labels(tmp_path: Path) -> None:
    jpeg = save(tmp_path / "x.jpg", np.zeros((8, 8)))
    text = tmp_path / "x.png"
    text.write_text("not a picture")
    real = save(tmp_path / "y.tif", np.zeros((4, 4)), np.float32)
    for path in (jpeg, text, real, tmp_path / "missing.png"):
        with pytest.raises(MediaError, match=path.name):
            values_of(path)


def read(path: Path, **options: object) -> list[list[int | None]]:
    """The label as lists, None for void."""
    spec = options.pop("spec", THREE)
    label = read_label(path, spec, **options)  # type: ignore[arg-type]
    assert label.classes.dtype == np.int64
    assert (label.classes[~label.valid] == 0).all()
    return [
        [int(v) if ok else None for v, ok in zip(row, oks, strict=True)]
        for row, oks in zip(label.classes, label.valid, strict=True)
    ]


def test_all_values_outside_the_classes_are_void(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", [[0, 1, 2], [3, 11, 255]])
    assert read(path) == [[0, 1, 2], [None, None, None]]
    # An ignore index among the classes is the model's own word.
    assert read(path, spec=THREE.with_(ignore_index=1)) == [[0, None, 2], [None, None, None]]


def test_with_ignore_only_that_value_is_void(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", [[0, 1, 2, 11]])
    assert read(good, ignore=11) == [[0, 1, 2, None]]
    assert read(good, ignore=11, spec=THREE.with_(ignore_index=2)) == [[0, 1, 2, None]]
    bad = save(tmp_path / "bad.png", [[0, 255, 11, 7]])
    with pytest.raises(MediaError, match=r"bad\.png holds the values 7, 255") as caught:
        read(bad, ignore=11)
    assert "0 to 2, or 11" in caught.value.expected
    with pytest.raises(MediaError, match=r"holds the value 11\n"):
        read_label(good, THREE, ignore=255)
    zero = save(tmp_path / "zero.png", [[0, 1]])
    assert read(zero, ignore=0) == [[None, 1]]


def test_label_map(tmp_path: Path) -> None:
    # 0 is void as in ADE20K, 1 to 3 are the classes; 9 is not in the map.
    spec = THREE.with_(label_map={0: 255, 1: 0, 2: 1, 3: 2})
    path = save(tmp_path / "x.png", [[0, 1, 2, 3]])
    assert read(path, spec=spec) == [[None, 0, 1, 2]]
    assert read(path, spec=spec, ignore=255) == [[None, 0, 1, 2]]
    assert read(path, spec=spec, ignore=3) == [[None, 0, 1, None]]
    other = save(tmp_path / "y.png", [[9, 255, 1]])
    assert read(other, spec=spec) == [[None, None, 0]]
    with pytest.raises(MediaError, match="value 9"):
        read(other, spec=spec, ignore=255)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30))
def test_resized_takes_the_pixel_under_the_centre(h: int, w: int, to_h: int, to_w: int) -> None:
    values = np.arange(h * w, dtype=np.int64).reshape(h, w)
    label = Label(values, values % 3 != 0).resized(FrameSize(to_h, to_w))
    np.testing.assert_array_equal(label.classes, nearest(values, to_h, to_w))
    np.testing.assert_array_equal(label.valid, label.classes % 3 != 0)


def nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """In fractions: floating point is off by a pixel where a centre meets a border."""

    def picks(count: int, source: int) -> list[int]:
        return [int((i + Fraction(1, 2)) * Fraction(source, count)) for i in range(count)]

    return values[np.ix_(picks(height, values.shape[0]), picks(width, values.shape[1]))]


def folders(tmp_path: Path, images: list[str], labels: list[str]) -> tuple[list[Path], Path]:
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in labels:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [tmp_path / "images" / name for name in images], folder


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "a.PNG"),
        ("a.png", "a_L.png"),
        ("a.png", "a.labels.png"),
        ("a.png", "town/a.png"),
        ("f_000_019_leftImg8bit.png", "f_000_019_gtFine_labelTrainIds.png"),
        ("a_leftImg8bit.png", "a_leftImg8bit.png"),
        ("a_leftImg8bit.png", "a_leftImg8bit_L.png"),
    ],
)
def test_pairs(tmp_path: Path, image: str, label: str) -> None:
    images, folder = folders(tmp_path, [image], [label])
    assert list(pair_labels(images, folder)) == [Pair(images[0], folder / label)]


def test_an_exact_name_comes_before_a_suffix(tmp_path: Path) -> None:
    images, folder = folders(tmp_path, ["a.jpg"], ["a.png", "a_L.png"])
    pairing = pair_labels(images, folder)
    assert list(pairing) == [Pair(images[0], folder / "a.png")]
    assert pairing.unused == (folder / "a_L.png",)
    assert "a_L.png" in pairing.notes[0]


def test_a_name_that_continues_another(tmp_path: Path) -> None:
    images, folder = folders(tmp_path, ["a.jpg", "a_1.jpg"], ["a_1_L.png", "a_L.png"])
    pairing = pair_labels(images, folder)
    assert [pair.label.name for pair in pairing] == ["a_L.png", "a_1_L.png"]
    assert pairing.notes == ()


@pytest.mark.parametrize("label", ["a_2.png", "ab.png", "a10.png", "b.png", "a.jpg", "a_color.png"])
def test_what_is_not_the_label_of_a(tmp_path: Path, label: str) -> None:
    images, folder = folders(tmp_path, ["a.jpg"], [label])
    with pytest.raises(MediaError, match=r"1 of 1 images have no label .*a\.jpg"):
        pair_labels(images, folder)


def test_unpaired_images_are_named(tmp_path: Path) -> None:
    names = [f"{letter}.jpg" for letter in "abcdefgh"]
    images, folder = folders(tmp_path, names, ["c.png"])
    with pytest.raises(MediaError) as caught:
        pair_labels(images, folder)
    assert "7 of 8" in caught.value.found
    assert "a.jpg, b.jpg, d.jpg, e.jpg, f.jpg, …" in caught.value.found


def test_two_labels_for_one_image(tmp_path: Path) -> None:
    images, folder = folders(
        tmp_path, ["a.png"], ["a_gtFine_labelIds.png", "a_gtFine_labelTrainIds.png"]
    )
    with pytest.raises(MediaError, match="2 labels") as caught:
        pair_labels(images, folder)
    assert "a_gtFine_labelIds.png" in caught.value.found


def test_an_image_is_not_its_own_label(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, np.zeros((4, 4)))
    with pytest.raises(MediaError, match="2 of 2 images have no label"):
        pair_files(tmp_path, tmp_path)


def test_folders_that_are_missing_or_empty(tmp_path: Path) -> None:
    images, _ = folders(tmp_path, ["a.jpg"], [])
    with pytest.raises(MediaError, match="not a folder"):
        pair_labels(images, tmp_path / "none")
    with pytest.raises(MediaError, match="no images"):
        pair_labels([], tmp_path / "labels")
    with pytest.raises(MediaError, match="no images"):
        pair_files(tmp_path / "labels", tmp_path / "labels")


def test_pair_files_reads_both_folders(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in (10, 2):
        save(tmp_path / "images" / f"f{number}.png", np.zeros((4, 4)))
        save(tmp_path / "labels" / f"f{number}.png", np.zeros((4, 4)))
    pairing = pair_files(tmp_path / "images", tmp_path / "labels")
    assert [(pair.image.name, pair.label.name) for pair in pairing] == [
        ("f2.png", "f2.png"),
        ("f10.png", "f10.png"),
    ]
    assert len(pairing) == 2
