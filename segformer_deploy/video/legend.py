"""The legend: which colour is which class, readable on any picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.video.frame import Picture

MOST_ROWS = 12
_SMALLEST_SHARE = 0.001
_LARGEST_PART = 1 / 3
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 21.0
"""Height in pixels of a capital letter of that font at scale 1."""
_SMALLEST_LETTER = 7
_LONGEST_NAME = 24
_DIMMED = 0.25


def draw_legend(
    picture: Picture,
    shares: npt.NDArray[np.float64],
    class_names: Sequence[str],
    bgr: npt.NDArray[np.uint8],
) -> None:
    """Draw the legend into the upper left corner of `picture` (uint8 `[H, W, 3]` BGR).

    Up to 12 classes that have at least a thousandth of the pixels, the largest first: a patch
    of colour, the name, the share in percent, on a darkened ground. Letters grow with the
    picture. Rows are left out, the smallest classes first, until the legend covers at most a
    third of the picture; a picture too small for one row gets no legend.
    """
    order = np.argsort(-shares, kind="stable")[:MOST_ROWS]
    present = [int(index) for index in order if shares[index] >= _SMALLEST_SHARE]
    height, width = picture.shape[:2]
    letter = max(_SMALLEST_LETTER, round(min(height, width * 0.75) / 42))
    texts = [f"{_plain(class_names[i], i)} {shares[i] * 100:.0f}%" for i in present]
    while texts:
        panel = _Panel(texts, letter)
        fits = panel.width <= width and panel.height <= height
        if fits and panel.width * panel.height <= _LARGEST_PART * width * height:
            panel.draw(picture, [bgr[i] for i in present])
            return
        texts.pop()


class _Panel:
    """The measures of a legend with these rows at this height of a letter."""

    def __init__(self, texts: Sequence[str], letter: int) -> None:
        self.texts = list(texts)
        self.letter = letter
        self.scale = letter / _FONT_HEIGHT
        self.thickness = max(1, round(letter / 11))
        self.gap = max(2, letter // 2)
        self.row = letter + 2 * self.gap
        sizes = [cv2.getTextSize(text, _FONT, self.scale, self.thickness)[0] for text in texts]
        self.patch = round(letter * 1.6)
        self.width = max(size[0] for size in sizes) + self.patch + 3 * self.gap
        self.height = self.row * len(self.texts) + self.gap

    def draw(self, picture: Picture, colours: Sequence[npt.NDArray[np.uint8]]) -> None:
        ground = picture[: self.height, : self.width]
        # White letters need a dark ground whatever lies below; a hint of the picture stays.
        ground[:] = cv2.convertScaleAbs(ground, alpha=_DIMMED)
        for index, (text, colour) in enumerate(zip(self.texts, colours, strict=False)):
            bottom = self.gap + index * self.row + self.gap + self.letter
            left, right = self.gap, self.gap + self.patch
            top = bottom - self.letter
            blue, green, red = (int(value) for value in colour)
            cv2.rectangle(picture, (left, top), (right, bottom), (blue, green, red), cv2.FILLED)
            cv2.rectangle(picture, (left, top), (right, bottom), (255, 255, 255), 1)
            start = (right + self.gap, bottom)
            cv2.putText(
                picture,
                text,
                start,
                _FONT,
                self.scale,
                (255, 255, 255),
                self.thickness,
                cv2.LINE_AA,
            )


def _plain(name: str, index: int) -> str:
    """The name in the letters that OpenCV's font has; long ones are cut."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()
    if not letters:
        return f"class {index}"
    return letters if len(letters) <= _LONGEST_NAME else letters[: _LONGEST_NAME - 2] + ".."
