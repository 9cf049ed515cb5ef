"""What the sections of the repository's own results share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segformer_deploy.bench.report import svg
from segformer_deploy.bench.report.fields import number
from segformer_deploy.bench.report.parts import Block

Data = Mapping[str, Any]
Built = tuple[str, tuple[str, ...], tuple[Block, ...]]
"""Title, leads, blocks."""


def key(css: str, shape: str, name: str) -> tuple[str, str]:
    """A mark of a figure's legend, with what it stands for."""
    mark = svg.group(css, svg.mark(shape, 11, 8))
    return f'<svg viewBox="0 0 22 16" aria-hidden="true">{mark}</svg>', name


def percent(value: Any) -> float | None:
    """A share of 0 to 1 in percent."""
    found = number(value)
    return None if found is None else 100 * found


def mean_and_worst(shares: Sequence[float]) -> tuple[float | None, float | None]:
    """Of shares of 0 to 1, in percent."""
    if not shares:
        return None, None
    return 100 * sum(shares) / len(shares), 100 * min(shares)
