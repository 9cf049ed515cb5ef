"""Houses and fences: the two walls of the street."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segformer_deploy.streets.camera import Metres
from segformer_deploy.streets.canvas import Brush, Canvas, Ink
from segformer_deploy.streets.classes import BUILDING, FENCE
from segformer_deploy.streets.dice import Bgr, Dice, blended, scaled
from segformer_deploy.streets.thing import flat_box

Box = tuple[float, float, float, float]
STOREY = 3.1
FENCE_VIEW = 32.0
"""Metres, beyond which a fence is a line of a few pixels."""


def upright_quads(x: float, boxes: list[Box]) -> Metres:
    """(z0, z1, y0, y1) rectangles on the wall at `x`, as corners [n, 4, 3]."""
    array = np.empty((len(boxes), 4, 3))
    table = np.array(boxes, np.float64).reshape(-1, 4)
    array[..., 0] = x
    array[..., 1] = table[:, [2, 2, 3, 3]]
    array[..., 2] = table[:, [0, 1, 1, 0]]
    return array


def facing_quads(z: float, boxes: list[Box]) -> Metres:
    """(x0, x1, y0, y1) rectangles that face the lens at `z`, as corners [n, 4, 3]."""
    array = np.empty((len(boxes), 4, 3))
    table = np.array(boxes, np.float64).reshape(-1, 4)
    array[..., 0] = table[:, [0, 1, 1, 0]]
    array[..., 1] = table[:, [2, 2, 3, 3]]
    array[..., 2] = z
    return array


def _draw_layers(brush: Brush, x: float, layers: list[tuple[list[Box], Ink]]) -> None:
    """Rectangles on the wall at `x`, layer over layer, with one projection for all."""
    boxes = [box for layer, _ in layers for box in layer]
    brush.layers(upright_quads(x, boxes), [(len(layer), ink) for layer, ink in layers])


def _in_sight(canvas: Canvas, side: int, x: float, z1: float) -> bool:
    """Whether the far end at `z1` of a wall at `x` is in the picture; if not, none of it is."""
    u, _, scale = canvas.camera.stand(x, 0, z1)
    return bool(scale) and (u > 0 if side < 0 else u < canvas.camera.size.width)


@dataclass(frozen=True)
class House:
    """A house on the lot from `z0` to `z1`; its front stands at `x` and it is `deep` metres."""

    side: int
    x: float
    z0: float
    z1: float
    height: float
    deep: float
    wall: Bgr
    ground_floor: Bgr
    frame: Bgr
    glass: Bgr
    roof: Bgr
    pitched: bool
    awning: Bgr | None
    spacing: float
    lit: tuple[bool, ...]

    @property
    def order(self) -> float:
        return self.z1 + abs(self.x) * 0.02

    def shadow(self, side: int, length: float) -> list[Metres]:
        if side == self.side:
            return []
        reach = min(self.height * length, 9.0)
        return [flat_box(self.x, self.x + side * reach, self.z0, self.z1)]

    def draw(self, canvas: Canvas) -> None:
        near = canvas.camera.nearest_z(self.x)
        if self.z1 <= near + 0.1 or not _in_sight(canvas, self.side, self.x, self.z1):
            return
        start = max(self.z0, near)
        distance = max(start - canvas.camera.z, 1.0)
        brush = canvas.brush(BUILDING, distance)
        look = canvas.look
        light = look.light_left if self.side < 0 else look.light_right
        if self.pitched:
            self._draw_roof(brush, start, light)
        if start == self.z0:
            self._draw_gable(canvas, brush, look.light_front)
        self._draw_front(brush, start, light, detailed=distance < 45)

    def _draw_roof(self, brush: Brush, start: float, light: float) -> None:
        back, ridge = self.x + self.side * self.deep / 2, self.height + 3.0
        quad = np.array(
            [
                (self.x, self.height, start),
                (self.x, self.height, self.z1),
                (back, ridge, self.z1),
                (back, ridge, start),
            ]
        )
        brush.quads(quad[None], brush.ink(self.roof, light))

    def _draw_gable(self, canvas: Canvas, brush: Brush, light: float) -> None:
        """The wall that faces the lens, seen where the next lot is open or lower."""
        far_x = self.x + self.side * self.deep
        outline = [(self.x, 0.0), (far_x, 0.0), (far_x, self.height)]
        if self.pitched:
            outline.append((self.x + self.side * self.deep / 2, self.height + 3.0))
        outline.append((self.x, self.height))
        corners = np.array([(x, y, self.z0) for x, y in outline])
        points, _ = canvas.camera.project(corners)
        brush.convex(points, brush.ink(self.wall, light))
        rows = int(self.height / STOREY)
        boxes = []
        for row in range(1, rows):
            for column in (0.25, 0.6):
                x = self.x + self.side * self.deep * column
                y = row * STOREY + 0.9
                boxes.append((x, x + self.side * 1.1, y, y + 1.4))
        if boxes:
            brush.quads(facing_quads(self.z0, boxes), brush.ink(self.glass, light))

    def _draw_front(self, brush: Brush, start: float, light: float, detailed: bool) -> None:
        x, top, end = self.x, self.height, self.z1
        frames, dark, lit = self._windows(start)
        layers = [
            ([(start, end, 0.0, top)], brush.ink(self.wall, light)),
            ([(start, end, 0.0, STOREY)], brush.ink(self.ground_floor, light)),
        ]
        if detailed:
            bands = [(start, end, top - 0.35, top), (start, end, STOREY, STOREY + 0.18)]
            foot = [(start, end, 0.0, 0.45)]
            layers += [
                (bands, brush.ink(self.frame, light * 0.92)),
                (foot, brush.ink(scaled(self.ground_floor, 0.6), light)),
                (frames, brush.ink(self.frame, light)),
            ]
        layers += [(dark, brush.ink(self.glass, light)), (lit, brush.glow((120.0, 205.0, 250.0)))]
        if detailed:
            # A lighter upper pane: the sky in the glass.
            panes = [(a, b, y1 - (y1 - y0) * 0.42, y1) for a, b, y0, y1 in dark]
            sheen = blended(self.glass, (225.0, 215.0, 205.0), 0.35)
            layers.append((panes, brush.ink(sheen, light)))
        _draw_layers(brush, x, layers)
        if self.awning and start == self.z0:
            self._draw_awning(brush, light)

    def _windows(self, start: float) -> tuple[list[Box], ...]:
        """Frames, dark panes and lit panes as (z0, z1, y0, y1)."""
        frames: list[Box] = []
        dark: list[Box] = []
        lit: list[Box] = []
        count = max(int((self.z1 - self.z0 - 0.6) / self.spacing), 1)
        step = (self.z1 - self.z0) / count
        for row in range(int((self.height - 0.5) / STOREY)):
            for column in range(count):
                middle = self.z0 + (column + 0.5) * step
                half, low, high = step * 0.26, row * STOREY + 0.95, row * STOREY + 2.55
                if row == 0:
                    half = step * 0.36
                    low = 0.1 if column == count // 2 else 0.75
                if middle - half - 0.12 < start:
                    continue
                frames.append((middle - half - 0.12, middle + half + 0.12, low - 0.12, high + 0.12))
                shines = self.lit[(row * 5 + column * 3) % len(self.lit)]
                (lit if shines else dark).append((middle - half, middle + half, low, high))
        return frames, dark, lit

    def _draw_awning(self, brush: Brush, light: float) -> None:
        assert self.awning
        out = self.x - self.side * 1.1
        stripes = np.linspace(self.z0 + 0.6, self.z1 - 0.6, 9)
        for parity, colour in ((0, self.awning), (1, (225.0, 228.0, 230.0))):
            quads = [
                [(self.x, 3.0, a), (self.x, 3.0, b), (out, 2.45, b), (out, 2.45, a)]
                for a, b in pairwise(stripes)
            ]
            brush.quads(np.array(quads[parity::2]), brush.ink(colour, light))


def house_from_dice(
    dice: Dice, side: int, x: float, z0: float, z1: float, lit_share: float
) -> House:
    wall = dice.plaster()
    frame = dice.hsv((0, 1), (0, 0.15), (0.6, 0.97)) if dice.chance(0.75) else dice.paint()
    return House(
        side=side,
        x=side * x,
        z0=z0,
        z1=z1,
        height=dice.whole(2, 5) * STOREY + 0.7,
        deep=dice.between(8, 12),
        wall=wall,
        ground_floor=scaled(wall, dice.between(0.75, 1.1)) if dice.chance(0.6) else dice.paint(),
        frame=frame,
        glass=dice.hsv((0.5, 0.68), (0.05, 0.5), (0.12, 0.5)),
        roof=dice.plaster(),
        pitched=dice.chance(0.45),
        awning=dice.paint(0.1) if dice.chance(0.3) else None,
        spacing=dice.between(1.9, 3.0),
        lit=tuple(dice.chance(lit_share) for _ in range(13)),
    )


@dataclass(frozen=True)
class Fence:
    """Boards, slats or panels along the street from `z0` to `z1`, `height` metres high."""

    side: int
    x: float
    z0: float
    z1: float
    height: float
    board: Bgr
    gap: Bgr
    post: Bgr
    kind: int

    @property
    def order(self) -> float:
        return self.z1

    def shadow(self, side: int, length: float) -> list[Metres]:
        return [flat_box(self.x, self.x + side * self.height * length, self.z0, self.z1)]

    def draw(self, canvas: Canvas) -> None:
        near = canvas.camera.nearest_z(self.x)
        start, end = max(self.z0, near), self.z1
        if end <= start + 0.2 or self.z0 - canvas.camera.z > FENCE_VIEW:
            return
        if not _in_sight(canvas, self.side, self.x, end):
            return
        distance = max(start - canvas.camera.z, 1.0)
        brush = canvas.brush(FENCE, distance)
        look = canvas.look
        light = look.light_left if self.x < canvas.camera.x else look.light_right
        if self.kind == 0:
            pitch = 0.28 if distance < 14 else 0.56
            first = np.ceil(start / pitch)
            boards = [
                (z * pitch, min((z + 0.68) * pitch, end), 0.06, self.height + 0.05)
                for z in np.arange(first, end / pitch - 0.3)
            ]
        else:
            count = 5 if self.kind == 1 else 3
            step = self.height / count
            boards = [
                (start, end, (row + 0.12) * step, (row + 0.88) * step) for row in range(count)
            ]
        posts = [
            (z, z + 0.16, 0.0, self.height + 0.14)
            for z in np.arange(self.z0, end - 0.1, 2.4)
            if z >= start
        ]
        if self.kind == 0:
            posts.append((start, end, self.height * 0.82, self.height * 0.9))
        layers = [
            ([(start, end, 0.0, self.height)], brush.ink(self.gap, light)),
            (boards, brush.ink(self.board, light)),
            (posts, brush.ink(self.post, light)),
        ]
        _draw_layers(brush, self.x, layers)


def fence_from_dice(dice: Dice, side: int, x: float, z0: float, z1: float, height: float) -> Fence:
    board = dice.paint(0.35)
    return Fence(
        side=side,
        x=side * x,
        z0=z0,
        z1=z1,
        height=height,
        board=board,
        gap=scaled(board, dice.between(0.3, 0.65)),
        post=scaled(board, dice.between(0.6, 1.3)),
        kind=dice.whole(0, 2),
    )
