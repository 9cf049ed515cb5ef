"""Values out of JSON that others wrote: the right type, or a plain "not there".

A page must not break over one odd value, and an odd value must not look like a figure:
NaN, infinities, booleans and text are no numbers here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MIB = 1 << 20


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def positive(value: Any) -> float | None:
    """A finite number above 0, else None: a time, a size."""
    found = number(value)
    return found if found is not None and found > 0 else None


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def text(value: Any) -> str:
    """A string, or a number as one; empty for everything else."""
    if isinstance(value, str):
        return value
    return "" if isinstance(value, bool) or not isinstance(value, (int, float)) else f"{value:g}"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def texts(value: Any) -> tuple[str, ...]:
    return tuple(entry for entry in items(value) if isinstance(entry, str) and entry)


def numbers(value: Any) -> list[float]:
    """The finite numbers of a list."""
    return [found for entry in items(value) if (found := number(entry)) is not None]


def size_text(value: Any) -> str:
    """`512x1024` from text, or from a pair of height and width."""
    if isinstance(value, list) and len(value) == 2:
        return "x".join(text(entry) for entry in value)
    return text(value)


def first(data: Mapping[str, Any], *names: str) -> Any:
    """The first of these keys that holds something; None where none does."""
    return next((data[name] for name in names if data.get(name) not in (None, "")), None)
