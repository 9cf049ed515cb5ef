"""The plan of one street: widths, lanes, colours; drawn once per scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segformer_deploy.streets.camera import Bend
from segformer_deploy.streets.dice import Bgr, Dice, blended
from segformer_deploy.streets.look import Look, look_from_dice

VIEW = 85.0
"""Metres; nothing but the skyline is drawn further away."""


@dataclass(frozen=True)
class Street:
    """What all frames of a scene share. Lengths in metres, colours BGR.

    Attributes:
        half: from the middle line to the kerb; line: from there to walls and fences.
        lanes: the middle of each driving lane, and its direction (+1 away from the camera).
        parking: width of the strip for parked cars at each kerb; cycle: of the cycle strip.
        lot: length of one lot of land beside the street.
        leafiness: share of trees; season: hue range of the leaves.
    """

    seed: int
    look: Look
    half: float
    line: float
    lanes: tuple[tuple[float, int], ...]
    parking: float
    cycle: float
    lot: float
    bend: Bend
    asphalt: Bgr
    paving: Bgr
    paving_kind: int
    kerb: Bgr
    paint: Bgr
    crossing_every: float
    leafiness: float
    season: int
    camera_x: float
    camera_y: float
    camera_speed: float
    focal: float
    pitch: float
    yaw: float


def street_from_seed(seed: int) -> Street:
    """Draw the plan; equal seeds give equal streets."""
    dice = Dice(seed, 1)
    look = look_from_dice(Dice(seed, 2))
    lane = dice.between(2.5, 3.0)
    count = dice.pick((1, 1, 2, 2, 2))
    drive = dice.pick((-1, 1))
    parking = 2.0 if dice.chance(0.2) else 0.0
    cycle = dice.between(1.0, 1.5)
    half = lane * count / 2 + cycle + parking
    lanes = ((0.0, 1),) if count == 1 else ((drive * lane / 2, 1), (-drive * lane / 2, -1))
    grey = dice.hsv((0, 1), (0.0, 0.16), (0.2, 0.72))
    paving = dice.hsv((0, 1), (0.0, 0.22), (0.25, 0.85))
    if abs(sum(grey) - sum(paving)) < 45:
        # A kerb must show: never quite the same grey on both sides of it.
        paving = blended(paving, (235.0, 235.0, 235.0) if sum(grey) < 380 else (40.0,) * 3, 0.35)
    wavelength = dice.between(260, 480)
    amplitude = 0.0 if dice.chance(0.4) else dice.between(1.0, wavelength / 34)
    return Street(
        seed=seed,
        look=look,
        half=half,
        line=half + dice.between(3.0, 4.8),
        lanes=lanes,
        parking=parking,
        cycle=cycle,
        lot=dice.between(8.0, 13.0),
        bend=Bend(amplitude, wavelength, dice.between(0, 2 * math.pi)),
        asphalt=grey,
        paving=paving,
        paving_kind=dice.whole(0, 2),
        kerb=blended(paving, (220.0, 220.0, 220.0), 0.4),
        paint=dice.pick(((235.0, 235.0, 235.0), (235.0, 235.0, 235.0), (90.0, 200.0, 235.0))),
        crossing_every=dice.between(24, 40),
        leafiness=dice.between(0.25, 0.75),
        season=dice.pick((0, 0, 0, 1, 2, 3)),
        camera_x=lanes[0][0] + dice.between(-0.6, 0.6),
        camera_y=dice.between(1.25, 2.3),
        camera_speed=dice.between(5.0, 9.0),
        focal=dice.between(0.66, 0.95),
        pitch=math.radians(dice.between(-0.5, 5.0)),
        yaw=math.radians(dice.between(-4.0, 4.0)),
    )
