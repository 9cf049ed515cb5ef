"""A pinhole camera over a street: world metres in, whole pixels out.

World: x to the right of the street's middle line, y up, z along the street. The street may
bend: what stands at (x, z) beside the middle line lies at x + bend(z) on the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import FrameSize

Points = npt.NDArray[np.int32]
Metres = npt.NDArray[np.float64]

NEAR = 0.35
"""Metres; nothing nearer to the lens is drawn."""
_FAR_OUT = 30000
"""Pixels; corners further out are pulled in, where OpenCV's fixed point still holds them."""


@dataclass(frozen=True)
class Bend:
    """A gentle sine: `amplitude` metres to each side over `wavelength` metres."""

    amplitude: float = 0.0
    wavelength: float = 400.0
    phase: float = 0.0

    def __call__(self, z: Any) -> Any:
        return self.amplitude * np.sin(z * (2 * math.pi / self.wavelength) + self.phase)

    def at(self, z: float) -> float:
        return self.amplitude * math.sin(z * (2 * math.pi / self.wavelength) + self.phase)

    def slope(self, z: float) -> float:
        turn = 2 * math.pi / self.wavelength
        return self.amplitude * turn * math.cos(z * turn + self.phase)


class Camera:
    """Where the lens is and where it looks.

    Args:
        size: of the picture, in pixels.
        focal: focal length as a multiple of the square root of the picture's area.
        x, y, z: metres; `x` from the street's middle line.
        yaw, pitch: radians, to the right of the street's direction and downwards.
    """

    def __init__(
        self,
        size: FrameSize,
        focal: float,
        x: float,
        y: float,
        z: float,
        yaw: float,
        pitch: float,
        bend: Bend,
    ) -> None:
        self.size = size
        self.unit = math.sqrt(size.pixels)
        self.focal = focal * self.unit
        self.x, self.y, self.z = x, y, z
        self.bend = bend
        self.map_x = x + bend.at(z)
        self.heading = yaw + math.atan(bend.slope(z))
        self.cos_yaw, self.sin_yaw = math.cos(self.heading), math.sin(self.heading)
        self.cos_pitch, self.sin_pitch = math.cos(pitch), math.sin(pitch)
        self.middle_u, self.middle_v = size.width / 2, size.height / 2
        self.horizon = self.middle_v - self.focal * math.tan(pitch)

    def nearest_z(self, x: float) -> float:
        """The z behind which a surface beside the street, at `x`, is surely out of the picture."""
        return self.z + 0.7 + 0.3 * abs(x - self.x)

    def project(self, points: Metres) -> tuple[Points, float]:
        """Pixels of world points [..., 3] as int32 [..., 2], and the smallest depth in metres."""
        z = points[..., 2]
        along = z - self.z
        if self.bend.amplitude:
            across = points[..., 0] + self.bend(z) - self.map_x
        else:
            across = points[..., 0] - self.map_x
        above = points[..., 1] - self.y
        right = across * self.cos_yaw - along * self.sin_yaw
        ahead = across * self.sin_yaw + along * self.cos_yaw
        depth = ahead * self.cos_pitch - above * self.sin_pitch
        up = above * self.cos_pitch + ahead * self.sin_pitch
        smallest = float(depth.min())
        per_metre = self.focal / np.maximum(depth, NEAR)
        pixels = np.empty((*z.shape, 2))
        pixels[..., 0] = self.middle_u + right * per_metre
        pixels[..., 1] = self.middle_v - up * per_metre
        np.maximum(pixels, -_FAR_OUT, out=pixels)
        np.minimum(pixels, _FAR_OUT, out=pixels)
        np.rint(pixels, out=pixels)
        return pixels.astype(np.int32), smallest

    def stand(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Pixel (u, v) of one point and pixels per metre there; the last is 0 behind the lens."""
        along = z - self.z
        across = x + self.bend.at(z) - self.map_x
        above = y - self.y
        right = across * self.cos_yaw - along * self.sin_yaw
        ahead = across * self.sin_yaw + along * self.cos_yaw
        depth = ahead * self.cos_pitch - above * self.sin_pitch
        if depth < NEAR:
            return 0.0, 0.0, 0.0
        up = above * self.cos_pitch + ahead * self.sin_pitch
        per_metre = self.focal / depth
        return self.middle_u + right * per_metre, self.middle_v - up * per_metre, per_metre

    def ground_rays(
        self, first_row: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """World x (beside the middle line) and z where the rays of each pixel meet the ground.

        Rows from `first_row`, which must lie below the horizon; each float32 [rows, W].
        """
        v = np.arange(first_row, self.size.height, dtype=np.float64)
        u = np.arange(self.size.width, dtype=np.float64)
        down = (v - self.middle_v) / self.focal
        ahead = self.cos_pitch - down * self.sin_pitch
        fall = self.sin_pitch + down * self.cos_pitch
        stretch = self.y / np.maximum(fall, 1e-4)
        sideways = ((u - self.middle_u) / self.focal)[None, :]
        ahead, stretch = ahead[:, None], stretch[:, None]
        z = self.z + stretch * (ahead * self.cos_yaw - sideways * self.sin_yaw)
        x = self.map_x + stretch * (sideways * self.cos_yaw + ahead * self.sin_yaw)
        if self.bend.amplitude:
            x = x - self.bend(z)
        return x.astype(np.float32), z.astype(np.float32)
