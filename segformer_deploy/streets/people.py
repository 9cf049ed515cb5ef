"""Pedestrians and bicyclists: flat figures that face the lens, with moving legs.

A bicycle belongs to its rider: both are bicyclist, wheels as closed discs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from segformer_deploy.streets.camera import Metres
from segformer_deploy.streets.canvas import Brush, Canvas
from segformer_deploy.streets.classes import BICYCLIST, PEDESTRIAN
from segformer_deploy.streets.dice import Bgr, Dice, scaled
from segformer_deploy.streets.thing import flat_disc, large_enough

Outline = list[tuple[float, float]]
Origin = tuple[float, float, float]
SMALLEST = 52
"""Pixels of height in a 512x512 picture below which nobody is drawn."""


@dataclass(frozen=True)
class Clothes:
    """Colours and build of one person; `build` widens, `tall` is metres."""

    tall: float
    build: float
    coat: Bgr
    trousers: Bgr
    skin: Bgr
    hair: Bgr
    bag: Bgr | None
    skirt: bool


def clothes_from_dice(dice: Dice) -> Clothes:
    return Clothes(
        tall=dice.between(1.62, 1.98),
        build=dice.between(0.95, 1.3),
        coat=dice.paint(0.35),
        trousers=dice.paint(0.5),
        skin=dice.hsv((0.03, 0.09), (0.25, 0.6), (0.3, 0.95)),
        hair=dice.hsv((0.02, 0.14), (0.05, 0.7), (0.08, 0.8)),
        bag=dice.paint(0.3) if dice.chance(0.35) else None,
        skirt=dice.chance(0.25),
    )


def _limb(a: tuple[float, float], b: tuple[float, float], half: float) -> Outline:
    """A bar from `a` to `b`, `2 half` thick."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    long = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / long * half, dx / long * half
    return [
        (a[0] + nx, a[1] + ny),
        (b[0] + nx, b[1] + ny),
        (b[0] - nx, b[1] - ny),
        (a[0] - nx, a[1] - ny),
    ]


@dataclass(frozen=True)
class Pedestrian:
    """Someone on foot. `stride` is the phase of the step in radians.

    `sideways` is -1 or +1 for someone seen from the side, walking left or right; 0 for
    someone who walks along the street.
    """

    x: float
    z: float
    stride: float
    sideways: int
    clothes: Clothes
    from_behind: bool

    @property
    def order(self) -> float:
        return self.z

    def shadow(self, side: int, length: float) -> list[Metres]:
        reach = self.clothes.tall * length
        return [flat_disc(self.x + side * reach / 2, self.z, 0.3 + reach / 2, 0.25)]

    def draw(self, canvas: Canvas) -> None:
        origin = canvas.camera.stand(self.x, 0, self.z)
        if not origin[2] or not large_enough(canvas, self.clothes.tall, origin[2], SMALLEST):
            return
        brush = canvas.brush(PEDESTRIAN, canvas.camera.focal / origin[2])
        worn, t, b = self.clothes, self.clothes.tall, self.clothes.build
        swing = math.sin(self.stride)
        hip, shoulder = t * 0.5, t * 0.82
        for leg in (-1, 1):
            if self.sideways:
                foot = (leg * swing * 0.3 * self.sideways, 0.0)
                top = (0.0, hip)
            else:
                foot = (leg * 0.13 * b, max(leg * swing, 0) * 0.12)
                top = (leg * 0.1 * b, hip)
            ink = brush.ink(worn.trousers, 0.8 if leg < 0 else 1.0)
            brush.figure(origin, _limb(foot, top, 0.105 * b), ink)
            shoe = _limb((foot[0] - 0.1, foot[1] + 0.05), (foot[0] + 0.12, foot[1] + 0.05), 0.06)
            brush.figure(origin, shoe, brush.ink(scaled(worn.hair, 0.7)))
        self._draw_trunk(brush, origin, hip, shoulder, swing)
        self._draw_head(brush, origin)

    def _draw_trunk(
        self, brush: Brush, origin: Origin, hip: float, shoulder: float, swing: float
    ) -> None:
        worn, b = self.clothes, self.clothes.build
        wide = 0.2 * b if self.sideways else 0.25 * b
        low = hip - (0.3 if worn.skirt else 0.04)
        flare = 1.15 if worn.skirt else 0.88
        coat: Outline = [(-wide * flare, low), (wide * flare, low), (wide * 0.85, hip + 0.15)]
        coat += [(wide, shoulder), (wide * 0.4, shoulder + 0.07), (-wide * 0.4, shoulder + 0.07)]
        coat += [(-wide, shoulder), (-wide * 0.85, hip + 0.15)]
        brush.figure(origin, coat, brush.ink(worn.coat))
        shade: Outline = [(-wide * flare, low), (-wide * 0.3, low), (-wide * 0.3, shoulder)]
        brush.figure(origin, [*shade, (-wide, shoulder)], brush.ink(worn.coat, 0.75))
        for arm in (-1, 1):
            if self.sideways:
                hand = (-arm * swing * 0.28 * self.sideways, hip + 0.02)
                start = (0.0, shoulder - 0.02)
            else:
                hand = (arm * wide * 1.3, hip + 0.04 + 0.06 * arm * swing)
                start = (arm * wide * 0.95, shoulder - 0.04)
            brush.figure(origin, _limb(start, hand, 0.075 * b), brush.ink(worn.coat, 0.88))
            u, v, scale = origin
            brush.disc(u + hand[0] * scale, v - hand[1] * scale, 0.07 * scale, brush.ink(worn.skin))
        if worn.bag and self.from_behind:
            pack: Outline = [(-0.17, hip + 0.1), (0.17, hip + 0.1), (0.15, shoulder - 0.02)]
            brush.figure(origin, [*pack, (-0.15, shoulder - 0.02)], brush.ink(worn.bag, 0.95))

    def _draw_head(self, brush: Brush, origin: Origin) -> None:
        u, v, scale = origin
        y = v - self.clothes.tall * 0.92 * scale
        size = 0.135 * scale
        hair, skin = brush.ink(self.clothes.hair), brush.ink(self.clothes.skin)
        brush.ellipse(u, y - size * 0.15, (size * 1.05, size * 1.15), hair)
        if not self.from_behind:
            shift = self.sideways * size * 0.35
            brush.ellipse(u + shift, y + size * 0.2, (size * 0.75, size * 0.9), skin)


@dataclass(frozen=True)
class Bicyclist:
    """Rider and bicycle. `sideways`: -1 or +1 crossing left or right, 0 along the street."""

    x: float
    z: float
    stride: float
    sideways: int
    clothes: Clothes
    frame: Bgr
    helmet: Bgr
    from_behind: bool

    @property
    def order(self) -> float:
        return self.z

    def shadow(self, side: int, length: float) -> list[Metres]:
        reach = self.clothes.tall * length
        wide = 0.8 if self.sideways else 0.25
        return [flat_disc(self.x + side * reach / 2, self.z, wide + reach / 2, 0.4)]

    def draw(self, canvas: Canvas) -> None:
        origin = canvas.camera.stand(self.x, 0, self.z)
        if not origin[2] or not large_enough(canvas, self.clothes.tall, origin[2], SMALLEST):
            return
        brush = canvas.brush(BICYCLIST, canvas.camera.focal / origin[2])
        if self.sideways:
            self._draw_from_the_side(brush, origin)
        else:
            self._draw_along(brush, origin)

    def _wheel(self, brush: Brush, origin: Origin, x: float, half: float) -> None:
        u, v, scale = origin
        middle = v - 0.35 * scale
        spokes = brush.ink((150.0, 150.0, 148.0))
        rubber = brush.ink((38.0, 36.0, 36.0))
        brush.ellipse(u + x * scale, middle, (half * scale, 0.35 * scale), rubber)
        inner = (half * scale * 0.8, 0.28 * scale)
        if min(inner) >= 2:
            brush.ellipse(u + x * scale, middle, inner, spokes)
            brush.disc(u + x * scale, middle, 0.05 * scale, rubber)

    def _draw_from_the_side(self, brush: Brush, origin: Origin) -> None:
        s, worn = self.sideways, self.clothes
        ink = brush.ink(self.frame)
        for x in (-0.55, 0.55):
            self._wheel(brush, origin, x * s, 0.35)
        tubes = (
            ((-0.55, 0.35), (-0.05, 0.32)),
            ((-0.05, 0.32), (0.42, 0.8)),
            ((-0.2, 0.85), (0.42, 0.8)),
            ((-0.55, 0.35), (-0.2, 0.85)),
            ((-0.05, 0.32), (-0.22, 0.95)),
            ((0.55, 0.35), (0.4, 1.02)),
        )
        for a, b in tubes:
            brush.figure(origin, _limb((a[0] * s, a[1]), (b[0] * s, b[1]), 0.045), ink)
        for leg in (0.0, math.pi):
            turn = self.stride + leg
            foot = ((-0.05 + 0.16 * math.cos(turn)) * s, 0.32 + 0.16 * math.sin(turn))
            knee = ((0.2 + 0.06 * math.cos(turn)) * s, 0.72 + 0.08 * math.sin(turn))
            trousers = brush.ink(worn.trousers, 0.8 if leg else 1.0)
            brush.figure(origin, _limb((-0.2 * s, 1.0), knee, 0.11), trousers)
            brush.figure(origin, _limb(knee, foot, 0.085), trousers)
        brush.figure(origin, _limb((-0.22 * s, 0.95), (0.1 * s, 1.5), 0.17), brush.ink(worn.coat))
        brush.figure(
            origin, _limb((0.1 * s, 1.45), (0.42 * s, 1.06), 0.07), brush.ink(worn.coat, 0.8)
        )
        self._draw_head(brush, origin, 0.2 * s, 1.68)

    def _draw_along(self, brush: Brush, origin: Origin) -> None:
        worn, b = self.clothes, self.clothes.build
        self._wheel(brush, origin, 0.0, 0.085)
        bar: Outline = [(-0.32, 1.0), (0.32, 1.0), (0.32, 1.09), (-0.32, 1.09)]
        brush.figure(origin, bar, brush.ink(self.frame))
        for leg in (-1, 1):
            lift = 0.16 * math.sin(self.stride + (math.pi if leg < 0 else 0))
            knee = (leg * 0.2 * b, 0.7 + lift * 0.6)
            ink = brush.ink(worn.trousers, 0.8 if leg < 0 else 1.0)
            brush.figure(origin, _limb((leg * 0.11, 1.0), knee, 0.11 * b), ink)
            brush.figure(origin, _limb(knee, (leg * 0.14, 0.3 + lift), 0.085 * b), ink)
        wide = 0.25 * b
        coat: Outline = [(-wide * 0.75, 0.88), (wide * 0.75, 0.88), (wide, 1.46)]
        coat += [(wide * 0.4, 1.54), (-wide * 0.4, 1.54), (-wide, 1.46)]
        brush.figure(origin, coat, brush.ink(worn.coat))
        shade: Outline = [(-wide * 0.75, 0.88), (-wide * 0.2, 0.88), (-wide * 0.3, 1.46)]
        brush.figure(origin, [*shade, (-wide, 1.46)], brush.ink(worn.coat, 0.75))
        for arm in (-1, 1):
            ends = ((arm * wide * 0.95, 1.42), (arm * 0.3, 1.06))
            brush.figure(origin, _limb(*ends, 0.07 * b), brush.ink(worn.coat, 0.85))
        self._draw_head(brush, origin, 0.0, 1.68)

    def _draw_head(self, brush: Brush, origin: Origin, x: float, height: float) -> None:
        u, v, scale = origin
        size, u, y = 0.135 * scale, u + x * scale, v - height * scale
        face = self.clothes.hair if self.from_behind and not self.sideways else self.clothes.skin
        brush.ellipse(u, y, (size * 0.9, size * 1.1), brush.ink(face))
        brush.ellipse(u, y - size * 0.55, (size * 1.1, size * 0.75), brush.ink(self.helmet))


def bicyclist_from_dice(
    dice: Dice, x: float, z: float, stride: float, sideways: int, from_behind: bool
) -> Bicyclist:
    clothes = clothes_from_dice(dice)
    frame, helmet = dice.paint(0.3), dice.paint(0.3)
    return Bicyclist(x, z, stride, sideways, clothes, frame, helmet, from_behind)
