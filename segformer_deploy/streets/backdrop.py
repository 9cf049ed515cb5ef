"""Sky, skyline and ground: what lies behind and below everything else."""

from __future__ import annotations

import math

import cv2
import numpy as np

from segformer_deploy.streets import noise
from segformer_deploy.streets.canvas import Canvas, Image
from segformer_deploy.streets.classes import BUILDING, PAVEMENT, ROAD, SKY, TREE
from segformer_deploy.streets.dice import Dice, DiceRow, blended
from segformer_deploy.streets.street import VIEW, Street

_SKYLINE_STEP = 0.05
"""Radians per block of the skyline."""


def draw_sky(canvas: Canvas) -> None:
    """A gradient from the top to the horizon with drifting clouds, down to the last row."""
    camera, look = canvas.camera, canvas.look
    height, width = camera.size.height, camera.size.width
    if canvas.plain:
        canvas.pixels[:] = canvas.brush(SKY, 0).glow(look.sky_top)
        return
    rows = min(max(int(camera.horizon) + 2, 1), height)
    share = np.clip(np.arange(rows) / max(camera.horizon, 1.0), 0, 1)[:, None] ** 1.3
    column = (1 - share) * np.array(look.sky_top) + share * np.array(look.sky_low)
    column = np.clip(np.rint(column), 0, 255).astype(np.uint8)[:, None]
    sky = cv2.resize(column, (width, rows), interpolation=cv2.INTER_NEAREST)
    # One tile spans about a radian; it slides as the camera turns and stays put otherwise.
    zoom = 360 / camera.unit
    shift = np.array(
        [[zoom, 0, camera.heading * 360 + 97 * look.cloudiness], [0, zoom * 2.2, 0]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    tile = cv2.warpAffine(
        noise.clouds(), shift, (width, rows), flags=flags, borderMode=cv2.BORDER_WRAP
    )
    start = 190 - 120 * look.cloudiness
    table = np.clip((np.arange(256) - start) * 3, 0, 215).astype(np.uint8)
    cover = cv2.LUT(tile, table)
    cover3 = cv2.merge([cover, cover, cover])
    cloud = np.empty_like(sky)
    cloud[:] = np.clip(look.cloud, 0, 255).astype(np.uint8)
    over = cv2.multiply(cloud, cover3, scale=1 / 255)
    under = cv2.multiply(sky, cv2.bitwise_not(cover3), scale=1 / 255)
    canvas.pixels[:rows, :, :3] = cv2.add(over, under)
    canvas.pixels[..., 3] = SKY


def draw_skyline(canvas: Canvas, street: Street) -> None:
    """Far roofs and treetops along the horizon, so that no street ends in the sky."""
    camera = canvas.camera
    reach = math.atan(camera.middle_u / camera.focal) + _SKYLINE_STEP
    first = math.floor((camera.heading - reach) / _SKYLINE_STEP)
    last = math.ceil((camera.heading + reach) / _SKYLINE_STEP)
    foot = round(camera.horizon) + max(round(0.02 * camera.unit), 2)
    row = DiceRow(street.seed, 3)
    for block in range(first, last + 1):
        dice = row.at(block)
        label = TREE if dice.chance(0.3) else BUILDING
        colour = _leaf_grey(dice) if label == TREE else dice.paint(0.6)
        brush = canvas.brush(label, VIEW * 1.2)
        # The wide angle stretches with the tangent, as the rest of the picture does.
        left = camera.middle_u + camera.focal * math.tan(block * _SKYLINE_STEP - camera.heading)
        right = left + camera.focal * _SKYLINE_STEP * dice.between(1.3, 2.0)
        top = camera.horizon - camera.unit * dice.between(0.035, 0.1)
        ink = brush.ink(colour, 0.8)
        if label == TREE:
            radius = (right - left) / 2
            brush.ellipse((left + right) / 2, foot, (radius, (foot - top)), ink)
        box = [(round(left), round(top if label == BUILDING else (top + foot) / 2))]
        box += [(round(right), box[0][1]), (round(right), foot), (round(left), foot)]
        brush.convex(np.array(box, np.int32), ink)


def _leaf_grey(dice: Dice) -> tuple[float, float, float]:
    return dice.hsv((0.1, 0.45), (0.1, 0.5), (0.2, 0.5))


def draw_ground(canvas: Canvas, street: Street, shadows: Image) -> None:
    """Pavement, kerbs, road and its paint, then the ground's grain and the shadows on it.

    `shadows` is uint8 [H, W], above 0 where the sun does not reach the ground.
    """
    camera = canvas.camera
    first_row = min(max(math.ceil(camera.horizon) + 1, 0), camera.size.height)
    # The ground is drawn in the colours of its near part; haze comes with the grain.
    pavement, road = canvas.brush(PAVEMENT, 6.0), canvas.brush(ROAD, 6.0)
    canvas.pixels[first_row:] = pavement.ink(street.paving)
    stations = camera.z + 0.8 * (VIEW * 1.6) ** np.linspace(0, 1, 22)
    _strip(canvas, -street.half - 0.22, street.half + 0.22, stations, pavement.ink(street.kerb))
    _strip(canvas, -street.half, street.half, stations, road.ink(street.asphalt))
    _draw_patches(canvas, street)
    _draw_paint(canvas, street, stations)
    if not canvas.plain and first_row < camera.size.height:
        _shade_ground(canvas, street, shadows, first_row)


def _strip(
    canvas: Canvas, x0: float, x1: float, z: np.ndarray, ink: tuple[int, int, int, int]
) -> None:
    edge = np.zeros((2 * len(z), 3))
    edge[: len(z), 0], edge[len(z) :, 0] = x0, x1
    edge[: len(z), 2], edge[len(z) :, 2] = z, z[::-1]
    points, _ = canvas.camera.project(edge)
    cv2.fillPoly(canvas.pixels, [points], ink)


def ground_quads(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    """(x0, x1, z0, z1) rectangles on the ground as corners [n, 4, 3]."""
    array = np.zeros((len(boxes), 4, 3))
    for quad, (x0, x1, z0, z1) in zip(array, boxes, strict=True):
        quad[:, 0] = x0, x1, x1, x0
        quad[:, 2] = z0, z0, z1, z1
    return array


def _draw_patches(canvas: Canvas, street: Street) -> None:
    """Mended asphalt and manhole covers: the road is not of one colour."""
    camera = canvas.camera
    brush = canvas.brush(ROAD, 6.0)
    start = math.floor(camera.z / 9.0)
    row = DiceRow(street.seed, 4)
    for cell in range(start, start + 6):
        dice = row.at(cell)
        if not dice.chance(0.55):
            continue
        x = dice.between(-street.half + 0.3, street.half - 1.6)
        z = cell * 9.0 + dice.between(0, 4)
        wide, long = dice.between(0.7, 1.6), dice.between(0.8, 5.0)
        if z > camera.z + 1.2:
            box = ground_quads([(x, min(x + wide, street.half), z, z + long)])
            brush.quads(box, brush.ink(street.asphalt, dice.between(0.72, 1.2)))


def _draw_paint(canvas: Canvas, street: Street, stations: np.ndarray) -> None:
    """Lane marks, the cycle strip's edge and zebra crossings; all of them are road."""
    camera, look = canvas.camera, canvas.look
    brush = canvas.brush(ROAD, 6.0)
    ink = brush.ink(street.paint, 0.95)
    edge = street.half - street.parking - street.cycle
    for side in (-1, 1):
        x = side * edge
        _strip(canvas, x - 0.06, x + 0.06, stations, ink)
    if look.cloudiness > 0.7:
        # Some towns colour their cycle strips.
        colour = blended(street.asphalt, (60.0, 70.0, 170.0), 0.5)
        inner, outer = edge + 0.06, edge + street.cycle
        for left, right in ((-outer, -inner), (inner, outer)):
            _strip(canvas, left, right, stations, brush.ink(colour))
    start = math.floor(camera.z / 6.0) + 1
    dashes = [(-0.08, 0.08, cell * 6.0, cell * 6.0 + 3.0) for cell in range(start, start + 12)]
    if len(street.lanes) > 1:
        brush.quads(ground_quads([d for d in dashes if d[2] > camera.z + 1.2]), ink)
    first = math.floor(camera.z / street.crossing_every)
    for number in range(first, first + 3):
        z = number * street.crossing_every
        if z < camera.z + 1.2:
            continue
        bars = np.arange(-street.half + 0.3, street.half - 0.5, 1.0)
        brush.quads(ground_quads([(x, x + 0.5, z - 1.5, z + 1.5) for x in bars]), ink)


def _shade_ground(canvas: Canvas, street: Street, shadows: Image, first_row: int) -> None:
    """Grain that lies still on the ground, shadows and haze; the label stays as it is."""
    camera, look = canvas.camera, canvas.look
    x, z = camera.ground_rays(first_row)
    ground = canvas.pixels[first_row:]
    scale = np.float32(noise.GROUND_PIXELS_PER_METRE)
    # 32-bit floats hold a position near 0 best; the tile repeats, so whole periods may go.
    period = noise.GROUND_TILE / noise.GROUND_PIXELS_PER_METRE
    z0 = math.floor(camera.z / period) * period
    x *= scale
    z -= np.float32(z0)
    z *= scale
    stones = ground[..., 3] != ROAD
    shade = noise.look_up(noise.ground(street.paving_kind), noise.GROUND_TILE, x, z, stones)
    # A pixel far away covers many grains: they average out.
    down = np.arange(1, len(ground) + 1, dtype=np.float32)[:, None] / camera.unit
    fade = np.minimum(down * 7, 1)
    factor = (shade.astype(np.float32) - 128) * fade + 128
    factor *= np.where(shadows[first_row:], np.float32(look.shadow), np.float32(1))
    grey = np.clip(factor, 0, 255).astype(np.uint8)
    keep = np.full_like(grey, 128)
    cv2.multiply(ground, cv2.merge([grey, grey, grey, keep]), dst=ground, scale=1 / 128)
    depth = camera.y * camera.focal / np.maximum(down[:, 0] * camera.unit, 1)
    clear = np.exp(-depth / look.visibility)[:, None, None]
    air = np.round((1 - clear) * np.array([*look.haze, 0.0])).astype(np.uint8)
    keep_row = np.round(clear * np.array([255.0, 255, 255, 0]) + [0, 0, 0, 255]).astype(np.uint8)
    width = ground.shape[1]
    thin = cv2.multiply(ground, np.repeat(keep_row, width, axis=1), scale=1 / 255)
    ground[:] = cv2.add(thin, np.repeat(air, width, axis=1))
