"""The vote that steadies one class map of a video by the one shown before it.

What is voted on, by whom, and with what weight: kernels/stabilise.c. Compiled C where it is
installed, NumPy with the same bits elsewhere.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime import native, stabilise_numpy
from segformer_deploy.runtime.strips import run_in_strips

PRESENT = stabilise_numpy.PRESENT
"""Weight of the new map's votes; the past's is `Voting.past` and more."""
SMALLEST_SIDE = 16
"""Pixels: the window's longer side must fit into the picture."""
_PIXELS_WORTH_A_THREAD = 50_000
"""About 0.2 ms where 5 % of the pixels are voted on, above what handing over a strip costs."""


@dataclass(frozen=True)
class Voting:
    """Who has a say, and how much; checked by those who make it.

    Attributes:
        reach: 1..255 grey levels: a sample whose colour differs by as much has no vote.
        past: 0..255: weight of what was shown before, in sixteenths of the new map's.
        trust: 0..255: added to `past` for each piece of evidence.
        most_evidence: 1..255: frames that can be gathered as evidence.
    """

    reach: int
    past: int
    trust: int
    most_evidence: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame's arrays, C-contiguous, at least 16 a side.

    Attributes:
        planes: the picture, uint8 `[3, H, W]`.
        class_map: uint8 or int32 `[H, W]`.
        evidence: uint8 `[H, W]`: for how many frames the class has been confirmed, less the
            times it was disputed since.
    """

    planes: npt.NDArray[np.uint8]
    class_map: npt.NDArray[Any]
    evidence: npt.NDArray[np.uint8]


def stabilise(
    now: Frame,
    before: Frame,
    motion: npt.NDArray[np.int16],
    cell: int,
    voting: Voting,
    voted: npt.NDArray[Any],
    out: Frame,
    *,
    threads: int | None = 1,
) -> None:
    """Fill `out.class_map` and `out.evidence` with what to show now.

    Args:
        now: the new picture and class map; its evidence is not looked at.
        before: the picture before, the class map shown for it, and its evidence.
        motion: int16 `[ceil(H / cell), ceil(W / cell), 2]`: how many pixels to its right and
            below it the content of each cell lay in the picture before.
        cell: pixels that share a motion, in both directions.
        voted: for use on the way, of the class map's type and shape.
        out: its planes are not looked at. No array that is written shares memory with another.
        threads: the most to use; None takes the cores of this process.
    """
    kernels = native.kernels()
    if kernels is None:
        stabilise_numpy.stabilise(now, before, motion, cell, voting, out)
        return
    height, width = now.class_map.shape
    address = native.address
    job = native.StabiliseJob(
        *(address(now.planes), address(before.planes), address(now.class_map)),
        *(address(before.class_map), address(before.evidence), address(motion)),
        *(address(voted), address(out.evidence), address(out.class_map)),
        *(height, width, cell, motion.shape[1], now.class_map.dtype == np.int32),
        *(voting.reach, voting.past, voting.trust, voting.most_evidence),
    )

    def vote(begin: int, end: int) -> None:
        native.check(kernels.stabilise(ctypes.byref(job), begin, end))

    run_in_strips(vote, height, threads, max(1, _PIXELS_WORTH_A_THREAD // width))
    native.check(kernels.smooth(ctypes.byref(job), 0, height))
