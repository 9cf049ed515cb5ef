"""Class maps made visible: colours over the picture, thin borders, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import Colour
from segformer_deploy.video.frame import Picture
from segformer_deploy.video.legend import draw_legend

ClassMap = npt.NDArray[Any]

_BORDER = (255, 255, 255)


class Overlay:
    """Draws class maps in a palette; keeps its working buffer, so one per thread.

    Args:
        palette: one RGB colour of 0..255 per class.
        class_names: one per class.
        legend: whether `draw` names the classes in the picture, unless told otherwise.
        borders: whether `draw` draws a line of one pixel where two classes meet.
    """

    def __init__(
        self,
        palette: Sequence[Colour],
        class_names: Sequence[str],
        *,
        legend: bool = True,
        borders: bool = False,
    ) -> None:
        if len(palette) != len(class_names):
            raise FrameError(
                f"{len(palette)} colours for {len(class_names)} classes", "one colour per class"
            )
        self.class_names = tuple(class_names)
        self.legend = legend
        self.borders = borders
        # One more entry, black, for values that are no class (255 in label files).
        self._bgr = np.zeros((len(palette) + 1, 3), np.uint8)
        self._bgr[:-1] = np.asarray(palette, np.uint8).reshape(-1, 3)[:, ::-1]
        self._table = np.zeros((256, 1, 3), np.uint8)
        count = min(len(palette), 256)
        self._table[:count, 0] = self._bgr[:count]
        self._colours: Picture | None = None

    def colourise(self, class_map: ClassMap) -> Picture:
        """The class map `[H, W]` in its palette: uint8 `[H, W, 3]` BGR; values beyond, black."""
        return self._colourise(class_map, None)

    def draw(
        self,
        image: Picture,
        class_map: ClassMap,
        *,
        opacity: float = 0.5,
        legend: bool | None = None,
        shares: npt.NDArray[np.float64] | None = None,
    ) -> Picture:
        """The picture under its classes' colours: a fresh uint8 `[H, W, 3]` BGR.

        Args:
            image: uint8 `[H, W, 3]` BGR; left as it is.
            class_map: integers `[H, W]` of the same size.
            opacity: 0 shows the picture alone, 1 the colours alone.
            legend: overrides the overlay's own setting.
            shares: what `class_shares` gives, where the caller has it already.

        Raises:
            FrameError: picture and class map differ in size.
        """
        if image.shape[:2] != class_map.shape:
            raise FrameError(
                f"a class map of {class_map.shape} for a picture of {image.shape[:2]}",
                "one class per pixel of the picture",
            )
        self._colours = colours = self._colourise(class_map, self._colours)
        drawn = cast(Picture, cv2.addWeighted(image, 1.0 - opacity, colours, opacity, 0.0))
        if self.borders:
            drawn[_borders(class_map)] = _BORDER
        if self.legend if legend is None else legend:
            if shares is None:
                shares = class_shares(class_map, len(self.class_names))
            draw_legend(drawn, shares, self.class_names, self._bgr)
        return drawn

    def _colourise(self, class_map: ClassMap, out: Picture | None) -> Picture:
        shape = (*class_map.shape, 3)
        if out is None or out.shape != shape:
            out = np.empty(shape, np.uint8)
        if class_map.dtype == np.uint8:
            cv2.applyColorMap(class_map, self._table, dst=out)
        else:
            # As unsigned numbers negative values lie beyond the palette too.
            unsigned = class_map.astype(np.int32, copy=False).view(np.uint32)
            last = np.uint32(len(self._bgr) - 1)
            np.take(self._bgr, np.minimum(unsigned, last), axis=0, out=out, mode="clip")
        return out


def class_shares(class_map: ClassMap, classes: int) -> npt.NDArray[np.float64]:
    """The share of the pixels that each class has: float64 `[classes]`, sum at most 1.

    Values that are no class count towards the pixels but not towards any class.
    """
    if class_map.dtype == np.uint8:
        # Ten times as fast as bincount, which widens every pixel to 64 bits. Its float32
        # counts are exact up to 2**24, so a larger map is counted in bands.
        rows = max(1, (1 << 24) // max(1, class_map.shape[1]))
        counts = np.zeros(256, np.float64)
        for top in range(0, class_map.shape[0], rows):
            band = np.ascontiguousarray(class_map[top : top + rows])
            counts += cv2.calcHist([band], [0], None, [256], [0, 256]).ravel()
    else:
        values = class_map.ravel()
        valid = values[(values >= 0) & (values < classes)]
        counts = np.bincount(valid, minlength=classes).astype(np.float64)
    shares = np.zeros(classes, np.float64)
    length = min(classes, len(counts))
    shares[:length] = counts[:length] / max(1, class_map.size)
    return shares


def _borders(class_map: ClassMap) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    border = np.zeros(class_map.shape, np.bool_)
    border[:, :-1] = class_map[:, :-1] != class_map[:, 1:]
    border[:-1] |= class_map[:-1] != class_map[1:]
    return border
