"""A number written into a picture, to tell which frame arrived and how late.

64 black or white blocks along the top edge: 48 bits of value, 16 of checksum. A block is 16 pixels
wide and high, so one H.264 macroblock, and comes through strong compression whole. Nothing
here imports numpy, so that a program whose Python lacks it writes the same code (`code_bits`).
"""

from __future__ import annotations

import binascii
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BLOCK = 16
BITS = 64
# Less between the darkest and the brightest block is no code, whatever the checksum says.
LEAST_CONTRAST = 60


def now_ms() -> int:
    """The clock to stamp with: all processes of one computer share it, and nobody sets it."""
    return time.monotonic_ns() // 1_000_000


def code_bits(value: int) -> list[int]:
    """The 64 bits of a value in the order of the blocks, the checksum last."""
    if not 0 <= value < 1 << 48:
        raise ValueError(f"{value} does not fit in 48 bits")
    # A first remainder of all ones: an all-black and an all-white picture fail the check.
    word = value << 16 | binascii.crc_hqx(value.to_bytes(6, "big"), 0xFFFF)
    return [word >> bit & 1 for bit in reversed(range(BITS))]


def block_corners(height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of each block, in as many rows as the width needs; ValueError: no room."""
    per_row = min(width // BLOCK, BITS)
    if per_row < 1 or -(-BITS // per_row) * BLOCK > height:
        raise ValueError(f"{height}x{width} has no room for {BITS} blocks of {BLOCK} pixels")
    return [(i // per_row * BLOCK, i % per_row * BLOCK) for i in range(BITS)]


def stamp(image: np.ndarray[Any, Any], value: int) -> None:
    """Write the value into a uint8 picture `[H, W, 3]` or `[H, W]`, in place."""
    corners = block_corners(*image.shape[:2])
    for bit, (top, left) in zip(code_bits(value), corners, strict=True):
        image[top : top + BLOCK, left : left + BLOCK] = 255 * bit


def read_stamp(image: np.ndarray[Any, Any]) -> int | None:
    """The value in a lossy copy, None where there is no code or it is damaged."""
    try:
        corners = block_corners(*image.shape[:2])
    except ValueError:
        return None
    low, high = BLOCK // 4, BLOCK - BLOCK // 4  # the middle: edges ring, neighbours bleed
    means = [
        float(image[top + low : top + high, left + low : left + high].mean())
        for top, left in corners
    ]
    if max(means) - min(means) < LEAST_CONTRAST:
        return None
    middle = (max(means) + min(means)) / 2
    value = sum((mean > middle) << bit for bit, mean in enumerate(reversed(means))) >> 16
    bits = [int(mean > middle) for mean in means]
    return value if bits == code_bits(value) else None
