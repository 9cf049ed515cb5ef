"""Picture and label as one four-channel image: B, G, R, class.

Each shape is filled once, from whole-pixel corners and without anti-aliasing, so the label's
borders are the picture's borders to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import FrameSize
from segformer_deploy.streets.camera import NEAR, Camera, Metres, Points
from segformer_deploy.streets.classes import PALETTE
from segformer_deploy.streets.dice import Bgr, blended, scaled
from segformer_deploy.streets.look import Look

Image = npt.NDArray[np.uint8]
Ink = tuple[int, int, int, int]
Part = tuple[Sequence[tuple[float, float, float]], Ink]


class Canvas:
    """What one frame is painted on.

    Args:
        camera: fixes size and view.
        look: light, haze and weather.
        plain: fill every shape with its class's palette colour, for checks.
    """

    def __init__(self, camera: Camera, look: Look, plain: bool = False) -> None:
        size: FrameSize = camera.size
        self.camera = camera
        self.look = look
        self.plain = plain
        self.pixels: Image = np.zeros((size.height, size.width, 4), np.uint8)

    def brush(self, label: int, depth: float) -> Brush:
        return Brush(self, label, depth)


class Brush:
    """Fills shapes of one class at one distance from the lens (for the haze).

    Colours are BGR, 0 to 255, as the surface has them in neutral light; `light` is how much
    falls on it.
    """

    def __init__(self, canvas: Canvas, label: int, depth: float) -> None:
        self._pixels = canvas.pixels
        self._camera = canvas.camera
        self._label = label
        look = canvas.look
        clear = math.exp(-max(depth, 0.0) / look.visibility)
        self._clear, self._haze = clear, look.haze
        self._tint = scaled(look.tint, clear)
        self._air = scaled(look.haze, 1 - clear)
        self._most = 255.0 * clear
        red, green, blue = PALETTE[label]
        self._flat = (blue, green, red, label) if canvas.plain else None

    def ink(self, colour: Bgr, light: float = 1.0) -> Ink:
        """The four channel values that `colour` ends as."""
        if self._flat:
            return self._flat
        blue, green, red = self._tint
        air_blue, air_green, air_red = self._air
        # Unrolled: this runs a thousand times per frame.
        return (
            int(min(colour[0] * light * blue, self._most) + air_blue),
            int(min(colour[1] * light * green, self._most) + air_green),
            int(min(colour[2] * light * red, self._most) + air_red),
            self._label,
        )

    def glow(self, colour: Bgr) -> Ink:
        """Like `ink` for what shines by itself: the hour does not dim it."""
        if self._flat:
            return self._flat
        blue, green, red = blended(self._haze, colour, self._clear)
        return int(blue), int(green), int(red), self._label

    def convex(self, points: Points, ink: Ink) -> None:
        cv2.fillConvexPoly(self._pixels, points, ink)

    def shapes(self, polygons: Sequence[Points], ink: Ink) -> None:
        """Many polygons that do not overlap, any form."""
        if len(polygons):
            cv2.fillPoly(self._pixels, polygons, ink)

    def disc(self, u: float, v: float, radius: float, ink: Ink) -> None:
        cv2.circle(self._pixels, (round(u), round(v)), max(round(radius), 1), ink, -1)

    def ellipse(self, u: float, v: float, half: tuple[float, float], ink: Ink) -> None:
        axes = (max(round(half[0]), 1), max(round(half[1]), 1))
        cv2.ellipse(self._pixels, (round(u), round(v)), axes, 0, 0, 360, ink, -1)

    def quads(self, corners: Metres, ink: Ink) -> None:
        """World quads [n, 4, 3] that do not overlap; those that reach behind the lens are left."""
        points, smallest = self._camera.project(corners)
        if smallest >= NEAR:
            self.shapes(list(points), ink)

    def figure(
        self,
        origin: tuple[float, float, float],
        outline: Sequence[tuple[float, float]],
        ink: Ink,
    ) -> None:
        """A flat shape that faces the lens.

        `origin` is (u, v, pixels per metre) of its foot, as `Camera.stand` gives it;
        `outline` is in metres, right and up of the foot.
        """
        u, v, scale = origin
        points = np.array(
            [(round(u + x * scale), round(v - y * scale)) for x, y in outline], np.int32
        )
        cv2.fillPoly(self._pixels, [points], ink)

    def solids(self, parts: Sequence[Part]) -> None:
        """World polygons, one after the other, with one projection for all of them."""
        points, _ = self._camera.project(np.array([c for corners, _ in parts for c in corners]))
        first = 0
        for corners, ink in parts:
            last = first + len(corners)
            cv2.fillPoly(self._pixels, [points[first:last]], ink)
            first = last

    def layers(self, quads: Metres, layers: Sequence[tuple[int, Ink]]) -> None:
        """World quads [n, 4, 3] in layers of so many quads, each over the one before."""
        points, smallest = self._camera.project(quads)
        if smallest < NEAR:
            return
        first = 0
        for count, ink in layers:
            if count:
                cv2.fillPoly(self._pixels, list(points[first : first + count]), ink)
            first += count
