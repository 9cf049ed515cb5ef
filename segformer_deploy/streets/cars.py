"""Cars, vans and buses: two boxes each, with glass, lamps and wheels. All of them are car."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segformer_deploy.streets.camera import NEAR, Metres
from segformer_deploy.streets.canvas import Brush, Canvas, Part
from segformer_deploy.streets.classes import CAR
from segformer_deploy.streets.dice import Bgr, Dice, blended
from segformer_deploy.streets.look import Look
from segformer_deploy.streets.thing import flat_box, large_enough


@dataclass(frozen=True)
class Body:
    """Measures in metres; the cabin's four numbers are shares of the length from the tail.

    `cabin`: where the rear window starts, the roof starts, the roof ends, the windscreen ends.
    """

    length: float
    width: float
    height: float
    waist: float
    cabin: tuple[float, float, float, float]
    wheel: float


BODIES: tuple[Body, ...] = (
    Body(4.0, 1.75, 1.48, 0.92, (0.0, 0.12, 0.58, 0.78), 0.33),
    Body(4.6, 1.82, 1.45, 0.9, (0.12, 0.28, 0.6, 0.78), 0.33),
    Body(4.6, 1.85, 1.62, 0.98, (0.0, 0.06, 0.62, 0.78), 0.36),
    Body(5.2, 2.0, 2.3, 1.25, (0.0, 0.01, 0.78, 0.93), 0.36),
    Body(8.5, 2.4, 3.0, 1.15, (0.0, 0.004, 0.99, 0.998), 0.48),
)
"""Hatchback, saloon, estate, van, bus."""

Corner = tuple[float, float, float]
_WHEEL = [(math.cos(i * math.pi / 7), math.sin(i * math.pi / 7)) for i in range(14)]
_RUBBER: Bgr = (34.0, 32.0, 32.0)


@dataclass(frozen=True)
class Car:
    """A vehicle whose near end is at `z`; `heading` is +1 where it drives away from the lens."""

    x: float
    z: float
    heading: int
    body: Body
    paint: Bgr
    glass: Bgr
    rim: Bgr

    @property
    def order(self) -> float:
        return self.z + self.body.length * 0.5

    def shadow(self, side: int, length: float) -> list[Metres]:
        half, reach = self.body.width / 2 + 0.1, self.body.height * length * 0.6 * side
        left, right = self.x - half + min(reach, 0), self.x + half + max(reach, 0)
        return [flat_box(left, right, self.z - 0.15, self.z + self.body.length + 0.1)]

    def draw(self, canvas: Canvas) -> None:
        camera, body = canvas.camera, self.body
        _, _, scale = camera.stand(self.x, 0, self.z)
        if not scale or not large_enough(canvas, body.height, scale, 24):
            return
        brush = canvas.brush(CAR, camera.focal / scale)
        half = body.width / 2
        # The side that the lens sees: the left one of a car on the right, and the reverse.
        sides = [s for s in (-1, 1) if (camera.x - self.x) * s > half]
        _, smallest = camera.project(flat_box(self.x - half, self.x + half, self.z, self.z))
        if smallest < NEAR:
            return
        parts: list[Part] = []
        self._draw_under(parts, brush)
        for side in sides:
            light = canvas.look.light_left if side > 0 else canvas.look.light_right
            self._draw_side(parts, brush, side, light)
        self._draw_top_and_end(parts, brush, canvas.look)
        brush.solids(parts)

    def _along(self, share: float) -> float:
        """World z of a share of the length from the tail."""
        share = share if self.heading > 0 else 1 - share
        return self.z + share * self.body.length

    def _polygon(
        self, parts: list[Part], brush: Brush, corners: list[Corner], colour: Bgr, light: float
    ) -> None:
        parts.append((corners, brush.ink(colour, light)))

    def _draw_under(self, parts: list[Part], brush: Brush) -> None:
        half, z = self.body.width / 2, self.z
        for side in (-1, 1):
            out, inner = self.x + side * half * 0.98, self.x + side * half * 0.66
            tyre = [(inner, 0, z + 0.3), (out, 0, z + 0.3), (out, 0.5, z + 0.3)]
            self._polygon(parts, brush, [*tyre, (inner, 0.5, z + 0.3)], _RUBBER, 1.0)

    def _draw_side(self, parts: list[Part], brush: Brush, side: int, light: float) -> None:
        body = self.body
        x = self.x + side * body.width / 2
        roof_x = self.x + side * body.width * 0.4
        at = [self._along(share) for share in body.cabin]
        ends = (self._along(0), self._along(1))
        hull = [(x, 0.28, ends[0]), (x, 0.28, ends[1]), (x, body.waist * 0.86, ends[1])]
        hull += [(x, body.waist, at[3]), (x, body.waist, at[0]), (x, body.waist * 0.97, ends[0])]
        self._polygon(parts, brush, hull, self.paint, light * 0.86)
        sill = [(x, 0.28, ends[0]), (x, 0.28, ends[1]), (x, 0.42, ends[1]), (x, 0.42, ends[0])]
        self._polygon(parts, brush, sill, self.paint, light * 0.55)
        cabin = [(x, body.waist, at[0]), (x, body.waist, at[3])]
        cabin += [(roof_x, body.height, at[2]), (roof_x, body.height, at[1])]
        self._polygon(parts, brush, cabin, self.paint, light * 0.95)
        self._draw_side_glass(parts, brush, x, roof_x, at, light)
        for share in (0.19, 0.8):
            z = self._along(share)
            for radius, colour in ((body.wheel, _RUBBER), (body.wheel * 0.6, self.rim)):
                ring = [(x, body.wheel + s * radius, z + c * radius) for c, s in _WHEEL]
                self._polygon(parts, brush, ring, colour, 1.0)

    def _draw_side_glass(
        self,
        parts: list[Part],
        brush: Brush,
        x: float,
        roof_x: float,
        at: list[float],
        light: float,
    ) -> None:
        body = self.body
        low, high = body.waist + 0.05, body.height - 0.12
        lean = (high - body.waist) / (body.height - body.waist)
        top_x = x + (roof_x - x) * lean
        panes = 6 if body.length > 8 else 2
        for pane in range(panes):
            a, b = (pane + 0.06) / panes, (pane + 0.94) / panes
            a, b = 0.06 + a * 0.88, 0.06 + b * 0.88
            quad = [
                (x, low, at[0] + (at[3] - at[0]) * a),
                (x, low, at[0] + (at[3] - at[0]) * b),
                (top_x, high, at[1] + (at[2] - at[1]) * b),
                (top_x, high, at[1] + (at[2] - at[1]) * a),
            ]
            self._polygon(parts, brush, quad, self.glass, light)

    def _draw_top_and_end(self, parts: list[Part], brush: Brush, look: Look) -> None:
        """Roof, bonnet or boot, and the end that faces the lens with its window and lamps."""
        body, x, light = self.body, self.x, look.light_front
        half, roof = body.width / 2, body.width * 0.4
        cabin = body.cabin if self.heading > 0 else body.cabin[::-1]
        near, far = cabin[:2], cabin[2:]
        sill_z, top_z = self._along(near[0]), self._along(near[1])
        end_z, roof_far = self.z, self._along(far[0])
        lid = [(x - half, body.waist, sill_z), (x + half, body.waist, sill_z)]
        edge = body.waist * (0.97 if self.heading > 0 else 0.86)
        deck = [*lid, (x + half, edge, end_z), (x - half, edge, end_z)]
        self._polygon(parts, brush, deck, self.paint, 1.1)
        crown = [(x - roof, body.height, top_z), (x + roof, body.height, top_z)]
        over = [*crown, (x + roof, body.height, roof_far), (x - roof, body.height, roof_far)]
        self._polygon(parts, brush, over, self.paint, 1.12)
        self._polygon(parts, brush, [*lid, *crown[::-1]], self.paint, light)
        window = [*lid, *crown[::-1]]
        inset = [_towards(window[i], window[(i + 2) % 4], 0.1) for i in range(4)]
        self._polygon(parts, brush, inset, self.glass, light)
        sheen = blended(self.glass, (230.0, 225.0, 220.0), 0.3)
        upper = [inset[3], inset[2], _towards(inset[1], inset[2], 0.5)]
        self._polygon(parts, brush, upper, sheen, light)
        self._draw_end(parts, brush, edge, look)

    def _draw_end(self, parts: list[Part], brush: Brush, edge: float, look: Look) -> None:
        half, z = self.body.width / 2, self.z

        def patch(x0: float, x1: float, y0: float, y1: float, colour: Bgr, glow: bool) -> None:
            left, right = self.x + x0 * half, self.x + x1 * half
            box = [(left, y0, z), (right, y0, z), (right, y1, z), (left, y1, z)]
            ink = brush.glow(colour) if glow else brush.ink(colour, look.light_front)
            parts.append((box, ink))

        patch(-1, 1, 0.26, edge, self.paint, False)
        patch(-0.97, 0.97, 0.26, 0.46, blended(self.paint, _RUBBER, 0.6), False)
        night = look.hour in ("night", "dusk")
        lamp: Bgr = (45.0, 40.0, 205.0) if self.heading > 0 else (225.0, 240.0, 250.0)
        for side in (-1, 1):
            inner, outer = sorted((side * 0.66, side * 0.95))
            patch(inner, outer, edge - 0.3, edge - 0.1, lamp, night)
        if self.heading < 0:
            patch(-0.45, 0.45, 0.48, 0.62, _RUBBER, False)
        else:
            patch(-0.28, 0.28, 0.52, 0.66, (215.0, 220.0, 220.0), False)


def _towards(a: Corner, b: Corner, share: float) -> Corner:
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def car_from_dice(dice: Dice, x: float, z: float, heading: int) -> Car:
    return Car(
        x=x,
        z=z,
        heading=heading,
        body=dice.pick((*BODIES[:4], *BODIES[:3], BODIES[4])),
        paint=dice.paint(0.45),
        glass=dice.hsv((0.5, 0.7), (0.02, 0.35), (0.08, 0.4)),
        rim=dice.hsv((0, 1), (0, 0.1), (0.4, 0.85)),
    )
