"""What stands where: lots beside the street, furniture at the kerb, and all that moves.

The street has no end. It is cut into places by whole numbers; what stands at a place
follows from (seed, kind, side, place) alone, so any stretch can be made at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from segformer_deploy.streets.buildings import fence_from_dice, house_from_dice
from segformer_deploy.streets.cars import car_from_dice
from segformer_deploy.streets.dice import DiceRow
from segformer_deploy.streets.furniture import pole_from_dice, sign_from_dice, tree_from_dice
from segformer_deploy.streets.people import (
    Pedestrian,
    bicyclist_from_dice,
    clothes_from_dice,
)
from segformer_deploy.streets.street import VIEW, Street
from segformer_deploy.streets.thing import Thing

_KERB_STEP = 4.0
_KERB_VIEW = 60.0
_PEOPLE_VIEW = 27.0
_LOT, _KERB, _PARKED, _WALK, _RIDE, _DRIVE, _CROSS = range(10, 17)
"""Keys that keep the kinds' random numbers apart."""


class Layout:
    """All things of one street."""

    def __init__(self, street: Street) -> None:
        self.street = street
        self._rows: dict[tuple[int, ...], DiceRow] = {}
        # Standing things never change: making them once is what keeps a video fast.
        self._lot = lru_cache(maxsize=64)(self._make_lot)
        self._kerb = lru_cache(maxsize=128)(self._make_kerb)

    def _row(self, *keys: int) -> DiceRow:
        if keys not in self._rows:
            self._rows[keys] = DiceRow(self.street.seed, *keys)
        return self._rows[keys]

    def things(self, z: float, time_s: float) -> list[Thing]:
        """What a camera at `z` may see, from far to near."""
        found: list[Thing] = []
        street = self.street
        for side in (-1, 1):
            for place in _places(z - street.lot, z + VIEW, street.lot):
                found += self._lot(side, place)
            for place in _places(z, z + _KERB_VIEW, _KERB_STEP):
                found += self._kerb(side, place)
            found += self._walking(side, z, time_s)
            found += self._riding(side, z, time_s)
        found += self._driving(z, time_s)
        found += self._crossing(z, time_s)
        found.sort(key=lambda thing: -thing.order)
        return found

    def _make_lot(self, side: int, place: int) -> list[Thing]:
        """A house, or a fenced garden with trees and a house far back."""
        street = self.street
        dice = self._row(_LOT, side).at(place)
        z0, z1 = place * street.lot, (place + 1) * street.lot
        lit = street.look.lit_windows
        if dice.chance(0.46):
            gap = dice.between(0, 0.8)
            things: list[Thing] = [house_from_dice(dice, side, street.line, z0, z1 - gap, lit)]
        else:
            back = street.line + dice.between(5.5, 9)
            things = [house_from_dice(dice, side, back, z0, z1, lit)]
            height = dice.between(1.4, 2.3)
            for _ in range(dice.whole(0, 3)):
                x = side * (street.line + dice.between(1.8, 4.5))
                z = dice.between(z0 + 0.5, z1 - 0.5)
                tree = tree_from_dice(dice, x, z, street.season, dice.between(1.5, 2.6))
                things.append(tree)
            things.append(fence_from_dice(dice, side, street.line, z0, z1, height))
        if dice.chance(0.12) and not street.parking:
            long = dice.between(2.5, street.lot * 0.6)
            rail = fence_from_dice(dice, side, street.half + 0.35, z0, z0 + long, 1.05)
            things.append(rail)
        return things

    def _make_kerb(self, side: int, place: int) -> list[Thing]:
        """A post, a sign or a tree; and perhaps a parked car."""
        street = self.street
        dice = self._row(_KERB, side).at(place)
        x = side * (street.half + dice.between(0.5, 0.75))
        z = (place + dice.between(0.2, 0.8)) * _KERB_STEP
        things: list[Thing] = []
        choice = dice.value()
        if choice < 0.32:
            things.append(pole_from_dice(dice, side, x, z))
        elif choice < 0.62:
            things.append(sign_from_dice(dice, x, z))
        elif choice < 0.62 + 0.35 * street.leafiness:
            radius = dice.between(1.2, 1.9)
            things.append(tree_from_dice(dice, x + side * 0.2, z, street.season, radius))
        parked = self._row(_PARKED, side).at(place)
        if street.parking and place % 2 == 0 and parked.chance(0.55):
            car = car_from_dice(parked, side * (street.half - 1.05), place * _KERB_STEP, side)
            if car.body.length < 6:
                things.append(car)
        return things

    def _walking(self, side: int, z: float, time_s: float) -> Iterator[Thing]:
        """Two streams of pedestrians per pavement, one each way."""
        street = self.street
        wide = street.line - street.half
        for stream, way in enumerate((-1, 1)):
            speed = way * (1.25 + 0.15 * stream)
            for place in _places(z + 1.5 - speed * time_s, z + _PEOPLE_VIEW - speed * time_s, 4.5):
                dice = self._row(_WALK, side, stream).at(place)
                if not dice.chance(0.36):
                    continue
                at = (place + dice.between(0.1, 0.9)) * 4.5 + speed * time_s
                x = side * (street.half + 1.0 + (0.3 + 0.4 * stream) * (wide - 1.1))
                stride = dice.between(0, 6) + time_s * 5.5
                pair = dice.chance(0.15)
                yield Pedestrian(x, at, stride, 0, clothes_from_dice(dice), way > 0)
                if pair:
                    friend = clothes_from_dice(dice)
                    yield Pedestrian(x + 0.55, at + 0.2, stride + 1, 0, friend, way > 0)

    def _riding(self, side: int, z: float, time_s: float) -> Iterator[Thing]:
        """One stream of bicyclists on each cycle strip, with the traffic."""
        street = self.street
        way = side * (1 if street.lanes[0][0] >= 0 else -1)
        speed = way * 4.2
        x = side * (street.half - street.parking - street.cycle / 2)
        for place in _places(z + 2.2 - speed * time_s, z + _PEOPLE_VIEW - speed * time_s, 6.0):
            dice = self._row(_RIDE, side).at(place)
            if not dice.chance(0.45):
                continue
            at = (place + dice.between(0.15, 0.85)) * 6.0 + speed * time_s
            stride = dice.between(0, 6) + time_s * 6
            yield bicyclist_from_dice(dice, x + dice.between(-0.2, 0.2), at, stride, 0, way > 0)

    def _driving(self, z: float, time_s: float) -> Iterator[Thing]:
        """Cars in their lanes; those ahead in the camera's own lane keep its speed."""
        street = self.street
        for number, (x, way) in enumerate(street.lanes):
            own = number == 0
            speed = street.camera_speed if own else way * street.camera_speed * 0.9
            drift = speed * time_s
            for place in _places(z - drift, z + VIEW - drift, 11.0):
                dice = self._row(_DRIVE, number).at(place)
                if not dice.chance(0.5):
                    continue
                at = (place + dice.between(0.0, 0.25)) * 11.0 + drift
                # In its own lane the camera keeps a gap, and nothing drives through the lens.
                if at > z + (7.0 if own else 1.5):
                    yield car_from_dice(dice, x + dice.between(-0.2, 0.2), at, way)

    def _crossing(self, z: float, time_s: float) -> Iterator[Thing]:
        """People and bicyclists who cross the road on the zebra stripes."""
        street = self.street
        every = street.crossing_every
        for place in _places(z + 4.5, z + _PEOPLE_VIEW, every):
            for number in range(3):
                dice = self._row(_CROSS).at(4 * place + number)
                way = dice.pick((-1, 1))
                rides = dice.chance(0.4)
                speed = 2.6 if rides else 1.3
                span = 2 * street.half + 6.0
                x = (dice.between(0, span) + way * speed * time_s) % span - span / 2
                at = place * every + (number - 1.5) * 0.8
                stride = dice.between(0, 6) + time_s * 5.5
                if at < z + 4.5 or abs(x) > street.line - 0.5:
                    continue
                if rides:
                    yield bicyclist_from_dice(dice, x, at, stride, way, False)
                else:
                    yield Pedestrian(x, at, stride, way, clothes_from_dice(dice), False)


def _places(start: float, end: float, step: float) -> range:
    """The whole numbers whose places touch `start` to `end`."""
    return range(math.floor(start / step), math.floor(end / step) + 1)
