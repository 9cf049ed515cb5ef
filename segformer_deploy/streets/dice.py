"""Random numbers that depend on nothing but integers: the scene's seed and a place in it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Bgr = tuple[float, float, float]

_AT_ONCE = 48


class Dice:
    """A stream of random choices for one (seed, place). Equal keys give equal streams.

    Args:
        keys: integers of either sign; the seed first.
    """

    def __init__(self, *keys: int) -> None:
        self._keys = keys
        self._generator: np.random.Generator | None = None
        self._values: list[float] = []

    def value(self) -> float:
        """Between 0 and 1."""
        if not self._values:
            if self._generator is None:
                self._generator = _generator(self._keys)
            # Drawn in blocks: one call per number would cost ten times as much.
            self._values = self._generator.random(_AT_ONCE).tolist()
        return self._values.pop()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.value()

    def chance(self, probability: float) -> bool:
        return self.value() < probability

    def whole(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + min(int(self.value() * (high - low + 1)), high - low)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.whole(0, len(options) - 1)]

    def hsv(
        self, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
    ) -> Bgr:
        """A colour (BGR, 0 to 255) from ranges of hue, saturation and value, each 0 to 1."""
        red, green, blue = colorsys.hsv_to_rgb(
            self.between(*hue) % 1.0, self.between(*saturation), self.between(*value)
        )
        return 255 * blue, 255 * green, 255 * red

    def paint(self, greyness: float = 0.4) -> Bgr:
        """A colour that walls, cars, clothes, signs and fences all may have.

        One distribution for all of them, so that a colour says little about a class.
        """
        if self.chance(greyness):
            return self.hsv((0, 1), (0.0, 0.12), (0.15, 0.95))
        return self.hsv((0, 1), (0.15, 0.8), (0.25, 0.95))

    def plaster(self) -> Bgr:
        """What walls mostly are: brick, sandstone, cream, grey; now and then any paint."""
        if self.chance(0.3):
            return self.paint(0.3)
        if self.chance(0.35):
            return self.hsv((0.0, 0.06), (0.3, 0.65), (0.35, 0.75))
        return self.hsv((0.05, 0.14), (0.05, 0.45), (0.45, 0.97))


class DiceRow:
    """Dice for the places of one kind of thing, made sixteen at a time.

    To seed a generator takes longer than to draw all that one thing needs from it.
    """

    def __init__(self, *keys: int) -> None:
        self._keys = keys
        self._chunk = lru_cache(maxsize=8)(self._make_chunk)

    def _make_chunk(self, chunk: int) -> list[list[float]]:
        values: list[list[float]] = _generator((*self._keys, chunk)).random((16, _AT_ONCE)).tolist()
        return values

    def at(self, place: int) -> Dice:
        dice = Dice(*self._keys, place, 1)
        dice._values = self._chunk(place >> 4)[place & 15].copy()
        return dice


def _generator(keys: tuple[int, ...]) -> np.random.Generator:
    # SeedSequence takes no negative integers; fold the signs in without collisions.
    folded = [2 * key if key >= 0 else -2 * key - 1 for key in keys]
    return np.random.Generator(np.random.PCG64(folded))


def scaled(colour: Bgr, factor: float) -> Bgr:
    """The colour made darker (factor below 1) or lighter, not yet clipped."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def blended(a: Bgr, b: Bgr, share_of_b: float) -> Bgr:
    return (
        a[0] + (b[0] - a[0]) * share_of_b,
        a[1] + (b[1] - a[1]) * share_of_b,
        a[2] + (b[2] - a[2]) * share_of_b,
    )
