"""Values out of JSON that others wrote: the right type, or a plain "not there".

A page must not break over one odd value, and an odd value must not look like a figure:
NaN, infinities, booleans and text are no numbers here, and neither is what no machine measures:
1e308 MiB would be infinite at the next product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

MIB = 1 << 20
_LARGEST, _SMALLEST = 1e18, 1e-12
"""No time, size or count is outside, in whatever unit; the products and ratios of such numbers
stay finite."""


def number(value: Any) -> float | None:
    """A number that a figure can be, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and abs(found) <= _LARGEST else None


def positive(value: Any) -> float | None:
    """A number above 0, else None: a time, a size."""
    found = number(value)
    return found if found is not None and found >= _SMALLEST else None


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def text(value: Any) -> str:
    """A string, or a number as one; empty for everything else."""
    if isinstance(value, str):
        return value
    found = number(value)
    return "" if found is None else f"{found:g}"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def texts(value: Any) -> tuple[str, ...]:
    return tuple(entry for entry in items(value) if isinstance(entry, str) and entry)


def numbers(value: Any) -> list[float]:
    """The numbers of a list."""
    return [found for entry in items(value) if (found := number(entry)) is not None]


def size_text(value: Any) -> str:
    """`512x1024` from text, or from a pair of height and width."""
    if isinstance(value, list) and len(value) == 2:
        return "x".join(text(entry) for entry in value)
    return text(value)


def pixels_of(size: str) -> int:
    """Of `512x1024`; 0 for what is no size."""
    found = re.fullmatch("([0-9]{1,6})x([0-9]{1,6})", size)
    return int(found[1]) * int(found[2]) if found else 0


def first(data: Mapping[str, Any], *names: str) -> Any:
    """The first of these keys that holds something; None where none does."""
    return next((data[name] for name in names if data.get(name) not in (None, "")), None)
