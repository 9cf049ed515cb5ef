"""What every object in a scene is: something with a place, a drawing and a shadow."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from segformer_deploy.streets.camera import Metres
from segformer_deploy.streets.canvas import Canvas


class Thing(Protocol):
    """Anything that stands in the scene."""

    @property
    def order(self) -> float:
        """Metres along the street; things are painted from the largest to the smallest."""

    def draw(self, canvas: Canvas) -> None:
        """Paint picture and label; paint nothing where it would be too small to tell."""

    def shadow(self, side: int, length: float) -> list[Metres]:
        """Ground polygons [n, 3] that it darkens; `length` metres of shadow per metre height."""


def flat_box(x0: float, x1: float, z0: float, z1: float) -> Metres:
    """A rectangle on the ground, [4, 3]."""
    return np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], np.float64)


_TURNS = [(math.cos(i * math.pi / 5), math.sin(i * math.pi / 5)) for i in range(10)]


def flat_disc(x: float, z: float, radius_x: float, radius_z: float) -> Metres:
    """An ellipse on the ground, [10, 3]."""
    return np.array([(x + c * radius_x, 0, z + s * radius_z) for c, s in _TURNS], np.float64)


def large_enough(canvas: Canvas, metres: float, scale: float, pixels_at_512: float) -> bool:
    """Whether `metres` at `scale` pixels per metre covers `pixels_at_512`, in a 512x512 picture.

    Measured against the picture, so a scene holds the same things at every size.
    """
    return metres * scale >= pixels_at_512 * canvas.camera.unit / 512
