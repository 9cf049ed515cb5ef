"""Seamless grey tiles of noise, made once per process: asphalt, paving, plaster, leaves, clouds.

Integers in, fixed-point resizing, integers out, so the number of threads has no say. Each is
uint8 around 128, where 128 stands for "unchanged".
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Tile = npt.NDArray[np.uint8]
GROUND_PIXELS_PER_METRE = 32
GROUND_TILE = 512
WALL_PIXELS_PER_METRE = 24
WALL_TILE = 384


def _octave(key: int, cells: int, side: int) -> npt.NDArray[np.int32]:
    """Smooth noise of -128..127 with `cells` cells per side, seamless."""
    generator = np.random.Generator(np.random.PCG64([77, key, cells]))
    coarse = generator.integers(0, 256, (cells, cells), dtype=np.uint8)
    if cells == side:
        return coarse.astype(np.int32) - 128
    wrapped = cv2.copyMakeBorder(coarse, 1, 1, 1, 1, cv2.BORDER_WRAP)
    step = side // cells
    large = cv2.resize(wrapped, ((cells + 2) * step,) * 2, interpolation=cv2.INTER_LINEAR)
    return large[step : step + side, step : step + side].astype(np.int32) - 128


def _mixture(key: int, side: int, shares: dict[int, int]) -> npt.NDArray[np.int32]:
    """Octaves weighted by `shares` (cells per side -> percent of full strength)."""
    total = np.zeros((side, side), np.int32)
    for cells, percent in shares.items():
        total += _octave(key, cells, side) * percent // 100
    return total


def _finished(values: npt.NDArray[np.int32]) -> Tile:
    return np.clip(values + 128, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def asphalt() -> Tile:
    side = GROUND_TILE
    return _finished(_mixture(1, side, {8: 18, 64: 8, 256: 12, 512: 10}))


@lru_cache(maxsize=4)
def paving(kind: int) -> Tile:
    """Slabs (0), bricks (1) or bare concrete with joints (2); dark lines between stones."""
    side, rows, columns = GROUND_TILE, *((26, 26), (64, 26), (8, 8))[kind]
    values = _mixture(10 + kind, side, {8: 10, 128: 8, 512: 8})
    generator = np.random.Generator(np.random.PCG64([78, kind]))
    stones = generator.integers(-22, 23, (rows, columns)).astype(np.int32)
    y = np.arange(side) * rows // side
    for row in range(rows):
        shift = (side // columns // 2) * (row % 2) if kind == 1 else 0
        x = ((np.arange(side) + shift) % side) * columns // side
        values[y == row] += stones[row][x][None, :]
        joints = np.flatnonzero(np.diff(x, append=x[0]) != 0)
        values[np.ix_(np.flatnonzero(y == row), joints)] -= 38
    values[np.flatnonzero(np.diff(y, append=y[0]) != 0)] -= 38
    return _finished(values)


@lru_cache(maxsize=1)
def wall() -> Tile:
    """Plaster and brick courses, for buildings and fences."""
    side = WALL_TILE
    values = _mixture(20, side, {6: 16, 48: 10, 192: 10})
    values[::6] -= 14
    return _finished(values)


@lru_cache(maxsize=1)
def leaves() -> Tile:
    side = WALL_TILE
    return _finished(_mixture(30, side, {12: 18, 48: 40, 96: 40, 192: 24}))


def _side_by_side(*tiles: Tile) -> Tile:
    """Tiles in a row, each with its first row and column repeated at its end.

    With that margin a position inside one period never needs a neighbour outside the image,
    which OpenCV's remap answers eight times faster than a wrapping border.
    """
    padded = [cv2.copyMakeBorder(tile, 0, 1, 0, 1, cv2.BORDER_WRAP) for tile in tiles]
    return np.asarray(np.hstack(padded), np.uint8)


@lru_cache(maxsize=4)
def ground(kind: int) -> Tile:
    """Asphalt, then one kind of paving, to `look_up`."""
    return _side_by_side(asphalt(), paving(kind))


@lru_cache(maxsize=1)
def upright() -> Tile:
    """Walls, then leaves, to `look_up`."""
    return _side_by_side(wall(), leaves())


def look_up(
    tiles: Tile,
    side: int,
    u: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    second: npt.NDArray[np.bool_],
) -> Tile:
    """Values of two seamless tiles at positions in tile pixels; the second one where asked.

    Args:
        tiles: from `ground` or `upright`; side: of one tile.
        u, v: float32 [h, w], any sign; overwritten.
        second: bool [h, w].
    """
    for position in (u, v):
        position -= np.floor(position * np.float32(1 / side)) * np.float32(side)
    u += second * np.float32(side + 1)
    found = cv2.remap(tiles, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.uint8)


@lru_cache(maxsize=1)
def clouds() -> Tile:
    side = 512
    return _finished(_mixture(40, side, {4: 60, 8: 50, 16: 30, 32: 18, 64: 10, 128: 6}))


@lru_cache(maxsize=1)
def _grain_tile() -> Tile:
    generator = np.random.Generator(np.random.PCG64([79]))
    # The sum of four dice is close enough to a bell; standard deviation 32.
    dice = generator.integers(0, 56, (4, 512, 512, 3), dtype=np.int32).sum(axis=0)
    return np.asarray(np.clip(dice + 128 - 110, 0, 255), np.uint8)


@lru_cache(maxsize=4)
def grain(height: int, width: int) -> Tile:
    """Sensor noise [at least height + 64, at least width + 64, 3]; standard deviation 32."""
    tile = _grain_tile()
    down, right = max(height + 64 - 512, 0), max(width + 64 - 512, 0)
    return np.asarray(cv2.copyMakeBorder(tile, 0, down, 0, right, cv2.BORDER_WRAP), np.uint8)


@lru_cache(maxsize=4)
def streaks(height: int, width: int) -> Tile:
    """Rain: bright slanted strokes on black [2 height, width]."""
    generator = np.random.Generator(np.random.PCG64([80]))
    image = np.zeros((2 * height, width), np.uint8)
    length = max(height // 16, 4)
    for _ in range(260):
        u, v = int(generator.integers(0, width)), int(generator.integers(0, 2 * height))
        grey = int(generator.integers(40, 120))
        cv2.line(image, (u, v), (u + length // 5, v + length), grey, max(height // 400, 1))
    return image


@lru_cache(maxsize=8)
def vignette(height: int, width: int, percent: int) -> Tile:
    """Factors in 255ths [height, width, 3], `percent` darker in the corners."""
    y = np.linspace(-1, 1, height)[:, None] ** 2
    x = np.linspace(-1, 1, width)[None, :] ** 2
    factor = np.rint(255 * (1 - percent / 100 * ((x + y) / 2) ** 1.5)).astype(np.uint8)
    return np.asarray(cv2.merge([factor, factor, factor]), np.uint8)
