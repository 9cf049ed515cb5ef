"""The overlay, compared with the same blend in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import default_class_names, default_palette
from segformer_deploy.video.overlay import Overlay, class_shares

RNG = np.random.default_rng(0)


def overlay(classes: int, **options: bool) -> Overlay:
    return Overlay(default_palette(classes), default_class_names(classes), **options)


def blend(image: np.ndarray, class_map: np.ndarray, classes: int, opacity: float) -> np.ndarray:
    palette = np.array([*default_palette(classes), (0, 0, 0)], np.float64)[:, ::-1]
    known = (class_map >= 0) & (class_map < classes)
    return (
        image * (1 - opacity)
        + palette[np.where(known, class_map.astype(np.int64), classes)] * opacity
    )


@settings(max_examples=60, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 19, 150, 256, 300]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    opacity=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]),
    seed=st.integers(0, 1000),
)
def test_within_one_level_of_the_float64_blend(
    classes: int, height: int, width: int, opacity: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    dtype = np.uint8 if classes <= 256 else np.int32
    class_map = rng.integers(0, classes, (height, width)).astype(dtype)
    drawn = overlay(classes).draw(image, class_map, opacity=opacity, legend=False)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn - blend(image, class_map, classes, opacity)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_colourise_gives_the_palette_and_black_beyond(dtype: type) -> None:
    class_map = np.array([[0, 1, 2], [3, 200, 255]], dtype)
    colours = overlay(4).colourise(class_map)
    palette = np.array([*default_palette(4), (0, 0, 0), (0, 0, 0)])
    np.testing.assert_array_equal(colours, palette[[0, 1, 2, 3, 4, 5], ::-1].reshape(2, 3, 3))


def test_a_negative_class_is_black() -> None:
    assert not overlay(300).colourise(np.full((2, 2), -1, np.int32)).any()


def test_what_was_returned_is_not_touched_again() -> None:
    draw = overlay(3).draw
    image = RNG.integers(0, 256, (80, 100, 3), np.uint8)
    kept = image.copy()
    first = draw(image, np.zeros((80, 100), np.uint8))
    copy = first.copy()
    draw(image, np.ones((80, 100), np.uint8))
    np.testing.assert_array_equal(first, copy)
    np.testing.assert_array_equal(image, kept)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 500), classes=st.integers(1, 40))
def test_the_legend_covers_at_most_a_third(height: int, width: int, classes: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    class_map = (np.arange(height * width).reshape(height, width) % classes).astype(np.uint8)
    drawing = overlay(classes)
    bare = drawing.draw(image, class_map, legend=False)
    named = drawing.draw(image, class_map, legend=True)
    assert (bare != named).any(axis=2).mean() <= 1 / 3


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("size", [(240, 320), (1080, 1920)])
def test_the_legend_is_readable_on_black_and_on_white(ground: int, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), ground, np.uint8)
    class_map = np.zeros(size, np.uint8)
    drawing = Overlay([(ground, ground, ground)], ["vegetation"])
    bare = drawing.draw(image, class_map, legend=False)
    named = drawing.draw(image, class_map)
    rows, columns = np.nonzero((bare != named).any(axis=2) | (named == 255).all(axis=2))
    panel = named[: size[0] // 20, : size[1] // 8]
    assert len(rows)
    assert len(columns)
    white = (panel >= 230).all(axis=2)
    dark = (panel <= 80).all(axis=2)
    assert 0.03 < white.mean() < 0.6  # letters …
    assert dark.mean() > 0.3  # … on a ground that lets them stand out
    height_of_letters = np.nonzero(white.any(axis=1))[0]
    assert np.ptp(height_of_letters) >= size[0] / 60  # and they grow with the picture


def test_the_legend_names_the_largest_classes_first_and_at_most_twelve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cv2

    texts: list[str] = []
    real = cv2.putText

    def remember(picture: np.ndarray, text: str, *rest: object) -> np.ndarray:
        texts.append(text)
        return real(picture, text, *rest)

    monkeypatch.setattr(cv2, "putText", remember)
    class_map = np.zeros((600, 800), np.uint8)
    class_map[:300] = 20  # half the picture
    for index in range(1, 19):
        class_map[590 - 10 * index : 600 - 10 * index] = index
    overlay(30).draw(np.zeros((600, 800, 3), np.uint8), class_map)
    assert texts[0] == "class 20 50%"
    assert texts[1].startswith("class 0 ")
    assert len(texts) == 12


def test_names_beyond_ascii_and_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    texts: list[str] = []
    monkeypatch.setattr(cv2, "putText", lambda picture, text, *rest: texts.append(text))
    names = ["Straße und Fußgängerüberweg mit Ampel", "道路", "façade"]
    class_map = np.repeat(np.arange(3, dtype=np.uint8), 100).reshape(1, 300).repeat(400, axis=0)
    image = np.zeros((400, 300, 3), np.uint8)
    Overlay(default_palette(3), names).draw(image, class_map)
    assert texts[0].startswith("Strae und Fugangerubewe"[:5])
    assert len(texts[0]) <= 24 + 4
    assert texts[1:] == ["class 1 33%", "facade 33%"]


def test_borders_lie_where_classes_meet() -> None:
    class_map = np.zeros((6, 6), np.uint8)
    class_map[2:4, 2:4] = 1
    image = np.zeros((6, 6, 3), np.uint8)
    drawing = Overlay([(0, 0, 0), (9, 9, 9)], ["a", "b"], legend=False, borders=True)
    white = (drawing.draw(image, class_map) == 255).all(axis=2)
    expected = np.zeros((6, 6), bool)
    for y in range(6):
        for x in range(6):
            right = x < 5 and class_map[y, x] != class_map[y, x + 1]
            below = y < 5 and class_map[y, x] != class_map[y + 1, x]
            expected[y, x] = right or below
    np.testing.assert_array_equal(white, expected)


def test_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(FrameError, match="class map"):
        overlay(2).draw(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    classes=st.sampled_from([1, 19, 256, 300]),
    wide=st.booleans(),
)
def test_shares_are_counts_over_pixels(height: int, width: int, classes: int, wide: bool) -> None:
    dtype = np.int32 if wide or classes > 256 else np.uint8
    rng = np.random.default_rng(height * width)
    class_map = rng.integers(0, 256 if dtype == np.uint8 else 320, (height, width)).astype(dtype)
    expected = [(class_map == index).mean() for index in range(classes)]
    np.testing.assert_allclose(class_shares(class_map, classes), expected, atol=1e-12)


def test_shares_of_a_map_beyond_float32_counts() -> None:
    class_map = np.zeros((4100, 4100), np.uint8)  # 16 810 000 pixels, above 2**24
    class_map[0, :3] = 1
    shares = class_shares(class_map, 2)
    assert shares[0] == (4100 * 4100 - 3) / (4100 * 4100)
    assert shares[1] == 3 / (4100 * 4100)
