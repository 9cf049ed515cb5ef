"""Trees, lamp posts and signs: what stands along the kerb."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from segformer_deploy.streets.camera import Metres
from segformer_deploy.streets.canvas import Brush, Canvas
from segformer_deploy.streets.classes import POLE, SIGN, TREE
from segformer_deploy.streets.dice import Bgr, Dice, blended, scaled
from segformer_deploy.streets.thing import flat_box, flat_disc, large_enough

_SEASONS: tuple[tuple[tuple[float, float], tuple[float, float], tuple[float, float]], ...] = (
    ((0.19, 0.4), (0.25, 0.8), (0.2, 0.7)),
    ((0.0, 0.16), (0.4, 0.9), (0.35, 0.85)),
    ((0.85, 1.15), (0.05, 0.4), (0.5, 0.9)),
    ((0.02, 0.2), (0.05, 0.3), (0.2, 0.55)),
)
"""Hue, saturation and value of leaves: summer, autumn, blossom, late winter."""

Outline = list[tuple[float, float]]
Blobs = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown of many blobs; conifers and hedges too. All of it is tree."""

    x: float
    z: float
    trunk: float
    radius: float
    kind: int
    leaf: Bgr
    bark: Bgr
    blobs: Blobs
    """(right, up, radius, light) in crown radii from the crown's middle."""

    @property
    def order(self) -> float:
        return self.z

    def shadow(self, side: int, length: float) -> list[Metres]:
        shift = side * (self.trunk + self.radius) * length * 0.8
        reach = self.radius * (1 + 0.6 * length)
        return [flat_disc(self.x + shift, self.z, reach, self.radius * 0.8)]

    def draw(self, canvas: Canvas) -> None:
        origin = canvas.camera.stand(self.x, 0, self.z)
        u, v, scale = origin
        if not scale or not large_enough(canvas, self.radius, scale, 12):
            return
        margin = self.radius * scale * 1.5
        if u < -margin or u > canvas.camera.size.width + margin:
            return
        brush = canvas.brush(TREE, canvas.camera.focal / scale)
        wide = 0.1 + 0.06 * self.radius
        trunk: Outline = [(-wide * 1.4, 0), (wide * 1.4, 0), (wide, 1), (wide, self.trunk + 0.8)]
        trunk += [(-wide, self.trunk + 0.8), (-wide, 1)]
        brush.figure(origin, trunk, brush.ink(self.bark, 0.8))
        lit: Outline = [(0, 0), (wide * 1.4, 0), (wide, 1), (wide, self.trunk), (0, self.trunk)]
        brush.figure(origin, lit, brush.ink(self.bark, 1.1))
        if self.kind == 2:
            self._draw_conifer(brush, origin)
            return
        tall = 1.6 if self.kind == 1 else 1.0
        middle = v - (self.trunk + self.radius * tall * 0.85) * scale
        blobs = self.blobs if self.radius * scale > 22 else self.blobs[::2]
        grow = 1.0 if blobs is self.blobs else 1.25
        unit = self.radius * scale
        for right, up, radius, light in blobs:
            ink = brush.ink(self.leaf, light)
            brush.disc(u + right * unit, middle - up * unit * tall, radius * grow * unit, ink)

    def _draw_conifer(self, brush: Brush, origin: tuple[float, float, float]) -> None:
        layers = 5
        for layer in range(layers):
            low = self.trunk * 0.5 + layer * self.radius * 0.75
            half = self.radius * (1 - 0.16 * layer)
            zigzag: Outline = [
                (half * (i / 4 - 1), low + (0.22 * self.radius if i % 2 else 0)) for i in range(9)
            ]
            top = low + self.radius * 1.3
            brush.figure(origin, [*zigzag, (0, top)], brush.ink(self.leaf, 0.6 + 0.1 * layer))
            right: Outline = [(0, low + 0.1 * self.radius), *zigzag[5:], (0, top)]
            brush.figure(origin, right, brush.ink(self.leaf, 0.8 + 0.1 * layer))


@lru_cache(maxsize=24)
def _crown(pattern: int) -> Blobs:
    """One of a few arrangements of blobs; trees share them to save time."""
    dice, count, blobs = Dice(9, pattern), 24, []
    for number in range(count):
        share = number / (count - 1)
        angle, away = dice.between(0, 2 * math.pi), math.sqrt(dice.value()) * 0.72
        # Dark blobs first and low, light ones last and towards the upper right.
        right = math.cos(angle) * away + 0.12 * share
        up = math.sin(angle) * away * 0.9 + 0.35 * (share - 0.5)
        size = dice.between(0.3, 0.46) * (1.15 - 0.5 * share)
        blobs.append((right, up, size, 0.5 + 0.5 * share + dice.between(-0.08, 0.12)))
    return tuple(blobs)


def tree_from_dice(dice: Dice, x: float, z: float, season: int, radius: float) -> Tree:
    kind = dice.pick((0, 0, 0, 1, 2))
    leaf = dice.hsv(*_SEASONS[season if dice.chance(0.75) else dice.whole(0, 3)])
    return Tree(
        x=x,
        z=z,
        trunk=dice.between(1.6, 2.6),
        radius=radius * (0.8 if kind else 1.0),
        kind=kind,
        leaf=leaf,
        bark=dice.hsv((0.02, 0.12), (0.1, 0.5), (0.15, 0.5)),
        blobs=_crown(dice.whole(0, 23)),
    )


@dataclass(frozen=True)
class Pole:
    """A lamp post (arm towards the road), a bare mast or a wooden line pole."""

    x: float
    z: float
    height: float
    width: float
    kind: int
    colour: Bgr
    arm: float

    @property
    def order(self) -> float:
        return self.z

    def shadow(self, side: int, length: float) -> list[Metres]:
        reach = self.x + side * self.height * length
        return [flat_box(self.x, reach, self.z - 0.12, self.z + 0.12)]

    def draw(self, canvas: Canvas) -> None:
        origin = canvas.camera.stand(self.x, 0, self.z)
        if not origin[2] or not large_enough(canvas, self.width, origin[2], 6.5):
            return
        brush = canvas.brush(POLE, canvas.camera.focal / origin[2])
        draw_post(brush, origin, 0, self.width, self.height, self.colour)
        half, top = self.width / 2, self.height
        if self.kind == 0:
            thick = self.width * 0.6
            arm: Outline = [(0, top - thick), (self.arm, top + 0.3), (self.arm, top + 0.3 + thick)]
            brush.figure(origin, [*arm, (0, top + thick * 0.6)], brush.ink(self.colour, 0.85))
            tip = self.arm + math.copysign(0.55, self.arm)
            lamp: Outline = [(self.arm, top + 0.2), (tip, top + 0.2), (tip, top + 0.45)]
            lamp.append((self.arm, top + 0.36 + thick))
            night = canvas.look.hour in ("night", "dusk")
            ink = brush.glow((170.0, 225.0, 255.0)) if night else brush.ink(self.colour, 0.7)
            brush.figure(origin, lamp, ink)
        elif self.kind == 1:
            cap: Outline = [(-half * 1.7, top), (half * 1.7, top), (half, top + 0.3)]
            brush.figure(origin, [*cap, (-half, top + 0.3)], brush.ink(self.colour, 1.2))
        else:
            for y in (top - 0.5, top - 1.2):
                bar: Outline = [(-1, y), (1, y), (1, y + half * 1.3), (-1, y + half * 1.3)]
                brush.figure(origin, bar, brush.ink(self.colour, 0.8))


def draw_post(
    brush: Brush,
    origin: tuple[float, float, float],
    x: float,
    width: float,
    height: float,
    colour: Bgr,
) -> None:
    """A round post: dark left, body, a light stripe, and a thicker foot."""
    left, right = x - width / 2, x + width / 2
    body: Outline = [(left, 0), (right, 0), (right, height), (left, height)]
    brush.figure(origin, body, brush.ink(colour, 0.95))
    shade: Outline = [(left, 0), (left + width * 0.3, 0), (left + width * 0.3, height)]
    brush.figure(origin, [*shade, (left, height)], brush.ink(colour, 0.65))
    low: Outline = [(left - 0.06, 0), (right + 0.06, 0), (right + 0.04, 0.5), (left - 0.04, 0.5)]
    brush.figure(origin, low, brush.ink(colour, 0.8))


def pole_from_dice(dice: Dice, side: int, x: float, z: float) -> Pole:
    return Pole(
        x=x,
        z=z,
        height=dice.between(4.2, 6.5),
        width=dice.between(0.28, 0.44),
        kind=dice.pick((0, 0, 0, 1, 2)),
        colour=dice.paint(0.75),
        arm=-side * dice.between(0.9, 1.6),
    )


_CIRCLE: Outline = [(math.cos(i * math.pi / 9), math.sin(i * math.pi / 9)) for i in range(18)]
_PLATES: tuple[Outline, ...] = (
    _CIRCLE,
    [(-1.05, -0.8), (1.05, -0.8), (0, 1.05)],
    [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    [(0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)],
    [(-1.7, -0.9), (1.7, -0.9), (1.7, 0.9), (-1.7, 0.9)],
    [(-0.45, -1.2), (0.45, -1.2), (0.45, 1.2), (-0.45, 1.2)],
)
"""Disc, triangle, square, diamond, direction board, traffic light; in half heights."""


@dataclass(frozen=True)
class Sign:
    """A plate (sign) on a post (pole)."""

    x: float
    z: float
    kind: int
    half: float
    middle: float
    face: Bgr
    rim: Bgr
    glyph: Bgr
    post: Bgr
    width: float

    @property
    def order(self) -> float:
        return self.z

    def shadow(self, side: int, length: float) -> list[Metres]:
        reach = self.x + side * (self.middle + self.half) * length
        return [flat_box(self.x, reach, self.z - 0.1, self.z + 0.1)]

    def draw(self, canvas: Canvas) -> None:
        origin = canvas.camera.stand(self.x, 0, self.z)
        if not origin[2] or not large_enough(canvas, self.half, origin[2], 10):
            return
        depth = canvas.camera.focal / origin[2]
        post = canvas.brush(POLE, depth)
        shifts = (-self.half * 1.1, self.half * 1.1) if self.kind == 4 else (0.0,)
        for shift in shifts:
            draw_post(post, origin, shift, self.width, self.middle, self.post)
        brush = canvas.brush(SIGN, depth)
        outline = _PLATES[self.kind]
        for size, colour in ((1.0, self.rim), (0.8, self.face)):
            brush.figure(origin, self._placed(outline, size), brush.ink(colour))
        if self.kind == 5:
            lamps = ((40.0, 40.0, 240.0), (40.0, 190.0, 245.0), (110.0, 220.0, 60.0))
            u, v, scale = origin
            for number, lamp in enumerate(lamps):
                shines = number == int(self.z) % 3
                ink = brush.glow(lamp) if shines else brush.ink(scaled(lamp, 0.3))
                y = self.middle + (1 - number) * 0.72 * self.half
                brush.disc(u, v - y * scale, self.half * 0.27 * scale, ink)
            return
        glyphs: list[Outline] = [
            [(-0.5, -0.12), (0.5, -0.12), (0.5, 0.12), (-0.5, 0.12)],
            [(-0.12, -0.5), (0.12, -0.5), (0.12, 0.3), (-0.12, 0.3)],
            [(-1.2, 0.15), (0.9, 0.15), (0.9, 0.4), (-1.2, 0.4)],
            [(-1.2, -0.45), (0.4, -0.45), (0.4, -0.2), (-1.2, -0.2)],
        ]
        chosen = glyphs[2:] if self.kind == 4 else glyphs[int(self.z) % 2 :][:1]
        for glyph in chosen:
            brush.figure(origin, self._placed(glyph, 1.0), brush.ink(self.glyph))

    def _placed(self, outline: Outline, size: float) -> Outline:
        grow = self.half * size
        return [(x * grow, self.middle + y * grow) for x, y in outline]


def sign_from_dice(dice: Dice, x: float, z: float) -> Sign:
    kind = dice.pick((0, 0, 1, 2, 3, 4, 5))
    face = dice.paint(0.35)
    light = sum(face) > 380
    return Sign(
        x=x,
        z=z,
        kind=kind,
        half=dice.between(0.52, 0.78),
        middle=dice.between(2.2, 2.9),
        face=scaled(face, 0.3) if kind == 5 else face,
        rim=dice.paint(0.3) if dice.chance(0.7) else blended(face, (20.0, 20.0, 20.0), 0.6),
        glyph=(25.0, 25.0, 25.0) if light else (235.0, 235.0, 235.0),
        post=dice.paint(0.8),
        width=dice.between(0.17, 0.26),
    )
