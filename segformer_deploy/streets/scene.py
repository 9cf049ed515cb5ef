"""The scene: a street, a camera that drives along it, pictures with labels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets.backdrop import draw_ground, draw_sky, draw_skyline
from segformer_deploy.streets.camera import Camera
from segformer_deploy.streets.canvas import Canvas, Image
from segformer_deploy.streets.dice import Dice
from segformer_deploy.streets.layout import Layout
from segformer_deploy.streets.photometric import develop, texture_walls
from segformer_deploy.streets.street import street_from_seed
from segformer_deploy.streets.thing import Thing

SMALLEST_SIDE = 32
_SHADOW_VIEW = 50.0


class Scene:
    """An endless street with its weather and its camera, all from one seed.

    Args:
        seed: any integer; equal seeds give equal bytes, in any process, with any number of
            threads.
        plain: paint each class in its palette colour and leave light, grain and lens out;
            the borders stay where they are. For checks.
    """

    def __init__(self, seed: int, *, plain: bool = False) -> None:
        self.seed = seed
        self.plain = plain
        self.street = street_from_seed(seed)
        self._layout = Layout(self.street)

    def frame(self, size: FrameSize, time_s: float) -> tuple[Image, Image]:
        """The picture (uint8 [H, W, 3], BGR) and its label (uint8 [H, W], 0 to 10).

        Args:
            size: height and width, at least 32 each; FrameError below.
            time_s: seconds since the drive began, at least 0.
        """
        if min(size.height, size.width) < SMALLEST_SIDE:
            raise FrameError(
                f"a street frame of {size}",
                f"at least {SMALLEST_SIDE} pixels on each side",
                "ask for a larger size",
            )
        camera = self._camera(size, time_s)
        canvas = Canvas(camera, self.street.look, self.plain)
        things = self._layout.things(camera.z, time_s)
        draw_sky(canvas)
        draw_skyline(canvas, self.street)
        draw_ground(canvas, self.street, self._shadows(camera, things))
        for thing in things:
            thing.draw(canvas)
        if not self.plain:
            texture_walls(canvas, self.street)
        label = np.asarray(cv2.extractChannel(canvas.pixels, 3), np.uint8)
        image = np.asarray(cv2.cvtColor(canvas.pixels, cv2.COLOR_BGRA2BGR), np.uint8)
        if not self.plain:
            # Microseconds name the frame: its noise must not hang on float formatting.
            key = (self.seed, 5, round(time_s * 1_000_000))
            image = develop(image, self.street.look, camera, key)
        return image, label

    def _camera(self, size: FrameSize, time_s: float) -> Camera:
        """Where the camera is: it drives straight on, and sways a little."""
        street = self.street
        sway = math.sin(time_s * 0.7 + street.camera_y * 9)
        return Camera(
            size,
            street.focal,
            street.camera_x + 0.12 * sway,
            street.camera_y + 0.012 * math.sin(time_s * 5.0),
            street.camera_speed * time_s,
            street.yaw + 0.012 * math.sin(time_s * 0.5),
            street.pitch + 0.003 * math.sin(time_s * 3.1),
            street.bend,
        )

    def _shadows(self, camera: Camera, things: list[Thing]) -> Image:
        look = self.street.look
        mask = np.zeros((camera.size.height, camera.size.width), np.uint8)
        if self.plain or look.shadow > 0.95:
            return mask
        polygons = [
            polygon
            for thing in things
            if thing.order < camera.z + _SHADOW_VIEW
            for polygon in thing.shadow(look.shadow_side, look.shadow_length)
        ]
        if not polygons:
            return mask
        corners = np.concatenate(polygons)
        np.maximum(corners[:, 2], camera.z + 0.9, out=corners[:, 2])
        points, _ = camera.project(corners)
        first = 0
        for polygon in polygons:
            cv2.fillConvexPoly(mask, points[first : first + len(polygon)], 255)
            first += len(polygon)
        return mask


def street_frame(seed: int, size: FrameSize, *, plain: bool = False) -> tuple[Image, Image]:
    """One frame of a scene of its own at a random time: (picture, label) as `Scene.frame`."""
    time_s = Dice(seed, 6).between(0, 600)
    return Scene(seed, plain=plain).frame(size, round(time_s, 3))


class StreetVideo:
    """A drive without end: iterate for (picture, label) pairs at `fps` frames per second.

    Each iteration starts the same drive again.
    """

    def __init__(self, seed: int, size: FrameSize, fps: float = 30.0) -> None:
        self.scene = Scene(seed)
        self.size = size
        self.fps = fps

    def __iter__(self) -> Iterator[tuple[Image, Image]]:
        number = 0
        while True:
            yield self.scene.frame(self.size, number / self.fps)
            number += 1
