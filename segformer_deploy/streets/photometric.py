"""What air, lens and sensor do to the finished picture; the label is only read."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from segformer_deploy.streets import noise
from segformer_deploy.streets.camera import Camera
from segformer_deploy.streets.canvas import Canvas, Image
from segformer_deploy.streets.classes import BUILDING, FENCE, TREE
from segformer_deploy.streets.dice import Dice
from segformer_deploy.streets.look import Look
from segformer_deploy.streets.street import Street


def texture_walls(canvas: Canvas, street: Street) -> None:
    """Grain on houses, fences and leaves that lies still on the two walls of the street.

    Each pixel's ray is followed to the wall at the street's line; far away, where a pixel
    covers many grains, the grain fades.
    """
    camera = canvas.camera
    height, width = camera.size.height, camera.size.width
    sideways = (np.arange(width) - camera.middle_u) / camera.focal
    # Pitch is small: columns are taken as upright, which keeps this one row of numbers.
    dx = sideways * camera.cos_yaw + camera.sin_yaw
    dz = camera.cos_yaw - sideways * camera.sin_yaw
    wall_x = np.where(dx > 0, street.line, -street.line) - camera.x
    slope = np.where(np.abs(dx) < 1e-3, np.copysign(1e-3, dx), dx)
    reach = np.minimum(wall_x / slope, 400.0)
    period = noise.WALL_TILE / noise.WALL_PIXELS_PER_METRE
    start = math.floor(camera.z / period) * period
    along = (camera.z - start + reach * dz) * noise.WALL_PIXELS_PER_METRE
    up = (camera.horizon - np.arange(height)) / camera.focal
    high = (camera.y + up[:, None] * reach[None, :] + 40.0) * noise.WALL_PIXELS_PER_METRE
    u = np.repeat(along.astype(np.float32)[None, :], height, axis=0)
    v = high.astype(np.float32)
    label = cv2.extractChannel(canvas.pixels, 3)
    leafy = label == TREE
    value = noise.look_up(noise.upright(), noise.WALL_TILE, u, v, leafy)
    walls = (label == BUILDING) | (label == FENCE) | leafy
    fade = np.minimum(14.0 / reach, 1.0).astype(np.float32)
    factor = (value.astype(np.float32) - 128) * fade[None, :] * walls + 128
    grey = factor.astype(np.uint8)
    keep = np.full_like(grey, 128)
    texture = cv2.merge([grey, grey, grey, keep])
    cv2.multiply(canvas.pixels, texture, dst=canvas.pixels, scale=1 / 128)


def develop(image: Image, look: Look, camera: Camera, frame_key: tuple[int, ...]) -> Image:
    """Rain, vignette, blur, the sensor's response, noise and compression, in this order.

    Args:
        image: uint8 [H, W, 3], BGR.
        frame_key: integers that name the frame; the noise follows from them.
    """
    height, width = image.shape[:2]
    dice = Dice(*frame_key)
    seen: Any = image
    if look.rain:
        sheet = noise.streaks(height, width)
        first = dice.whole(0, height - 1)
        drops = cv2.multiply(sheet[first : first + height], np.array([look.rain], np.float64))
        seen = cv2.add(seen, cv2.merge([drops, drops, drops]))
    shade = noise.vignette(height, width, round(look.vignette * 100))
    seen = cv2.multiply(seen, shade, scale=1 / 255)
    if look.blur:
        sigma = look.blur * max(camera.unit / 512, 0.6)
        seen = cv2.GaussianBlur(seen, (3, 3), min(sigma, 1.0))
    # Channel by channel: OpenCV's table for three at once takes three times as long.
    tables = _response(look)
    seen = cv2.merge([cv2.LUT(channel, tables[:, i]) for i, channel in enumerate(cv2.split(seen))])
    sheet = noise.grain(height, width)
    top, left = dice.whole(0, 63), dice.whole(0, 63)
    grain = sheet[top : top + height, left : left + width]
    share = look.noise / 32
    seen = cv2.addWeighted(seen, 1.0, grain, share, -128 * share)
    if look.jpeg:
        _, packed = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])
        seen = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.asarray(seen, np.uint8)


def _response(look: Look) -> Image:
    """One table per channel, [256, 3]: exposure, contrast about the middle, and white balance."""
    level = np.arange(256, dtype=np.float64)[:, None] * np.array(look.gains) * look.exposure
    level = (level - 118) * look.contrast + 118
    # A soft shoulder instead of hard clipping in the lights.
    level = np.where(level > 215, 215 + 40 * np.tanh((level - 215) / 60), level)
    return np.asarray(np.clip(np.rint(level), 0, 255), np.uint8)
