"""The arithmetic of the comparison: percentiles, ratios per round, and how far masks agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median and the tenth and ninetieth percentile (linear interpolation between samples)."""

    median: float
    p10: float
    p90: float


def spread(values: Sequence[float]) -> Spread:
    p10, median, p90 = np.percentile(np.asarray(values, dtype=np.float64), [10, 50, 90])
    return Spread(float(median), float(p10), float(p90))


def ratio_per_round(peer_ms: Sequence[float], our_ms: Sequence[float]) -> Spread:
    """How many times our time the peer took, round by round.

    A round is one moment of the machine: what slows it slows both, and drops out.
    """
    peer, ours = np.asarray(peer_ms, np.float64), np.asarray(our_ms, np.float64)
    if peer.shape != ours.shape:
        raise ValueError(f"{peer.size} rounds of the peer, {ours.size} of ours")
    return spread((peer / ours).tolist())


@dataclass(frozen=True)
class Agreement:
    """A class map against the reference's.

    Attributes:
        identical: share of equal pixels.
        largest_logit_difference: between the two, upsampled to the frame; None without logits.
        margin: twice that plus rounding; pixels whose top two classes in the reference lie
            within it may differ.
        exempt: share of pixels within the margin.
        violations: pixels that differ although they are not exempt.
    """

    identical: float
    largest_logit_difference: float | None = None
    margin: float | None = None
    exempt: float | None = None
    violations: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_maps(
    reference: np.ndarray[Any, Any],
    peer: np.ndarray[Any, Any],
    reference_logits: np.ndarray[Any, Any] | None = None,
    peer_logits: np.ndarray[Any, Any] | None = None,
) -> Agreement:
    """Compare class maps `[H, W]`; logits are `[classes, H, W]`, upsampled to the frame.

    If no logit differs by more than d, the winner can change only where the runner-up is
    within 2 d. Each side also rounds its own interpolation: four products and three sums,
    so at most 8 half-ulps of the largest logit, on both sides and for both classes.
    """
    if reference.shape != peer.shape:
        raise ValueError(f"class maps of {reference.shape} and {peer.shape}")
    differs = reference != peer
    identical = float(1.0 - differs.mean())
    if reference_logits is None or peer_logits is None:
        return Agreement(identical)
    difference = float(np.abs(reference_logits - peer_logits).max())
    rounding = 16 * float(np.finfo(np.float32).eps) * float(np.abs(reference_logits).max())
    margin = 2 * difference + rounding
    top_two = np.partition(reference_logits, -2, axis=0)[-2:]
    exempt = (top_two[1] - top_two[0]) <= margin
    return Agreement(
        identical, difference, margin, float(exempt.mean()), int((differs & ~exempt).sum())
    )


def border_share(class_map: np.ndarray[Any, Any]) -> float:
    """Share of neighbouring pixel pairs (across and down) whose classes differ."""
    across = class_map[:, 1:] != class_map[:, :-1]
    down = class_map[1:] != class_map[:-1]
    return float((across.sum() + down.sum()) / (across.size + down.size))


def infer_share(stages: Sequence[dict[str, float]], ms: Sequence[float]) -> float:
    """Median share of a frame's time that the network takes."""
    return float(np.median([one["infer"] / total for one, total in zip(stages, ms, strict=True)]))


def stage_medians(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in stages])) for name in stages[0]}
