"""What each PTX instruction computes, lane by lane, on NumPy arrays.

After NVIDIA's "PTX ISA": integers wrap, shift amounts clamp, minimum and maximum prefer a number
to NaN, conversions to integers saturate and make 0 of NaN. An addition or product without `.rn`
is refused: ptxas may contract it, and then a GPU would round otherwise than a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.cuda.ptx_text import PtxError

Lanes = Any
"""A NumPy array with one element per thread."""

TYPES = {
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "ub" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "pred": np.dtype(bool),
}
_COMPARE: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    **dict.fromkeys(("lt", "lo"), np.less),
    **dict.fromkeys(("le", "ls"), np.less_equal),
    **dict.fromkeys(("gt", "hi"), np.greater),
    **dict.fromkeys(("ge", "hs"), np.greater_equal),
    "eq": np.equal,
    "ne": np.not_equal,
}
_LOGIC: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_ROUND_TO_INTEGER = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


@dataclass(frozen=True)
class Operation:
    """`compute` takes arrays of the types in `takes` and gives one of type `gives`."""

    gives: str
    takes: tuple[str, ...]
    compute: Callable[..., Lanes]


def operation(parts: tuple[str, ...]) -> Operation:
    """The meaning of a mnemonic, such as ("mul", "wide", "s32").

    Raises:
        PtxError: naming an instruction that is not known here.
    """
    maker = _MAKERS.get(parts[0])
    made = maker(parts) if maker and TYPES.get(parts[-1]) is not None else None
    if made is None:
        raise PtxError(f"unknown instruction: {'.'.join(parts)}")
    return made


def _kind(name: str) -> str:
    return name[0]


def _wider(name: str) -> str:
    return f"{_kind(name)}{2 * int(name[1:])}"


def _add_or_sub(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    # An integer needs no rounding; a float has to say it.
    if parts[1:-1] != (("rn",) if _kind(name) == "f" else ()) or name == "f16":
        return None
    return Operation(name, (name, name), np.add if parts[0] == "add" else np.subtract)


def _mul(parts: tuple[str, ...]) -> Operation | None:
    name, how = parts[-1], parts[1:-1]
    if _kind(name) == "f":
        return Operation(name, (name, name), np.multiply) if how == ("rn",) else None
    if how == ("lo",):
        return Operation(name, (name, name), np.multiply)
    if how == ("wide",) and name[1:] in ("16", "32"):
        wide = TYPES[_wider(name)]
        return Operation(_wider(name), (name, name), lambda a, b: a.astype(wide) * b.astype(wide))
    if how == ("hi",):
        return Operation(name, (name, name), lambda a, b: _high(a, b, TYPES[name]))
    return None


def _high(a: Lanes, b: Lanes, dtype: np.dtype[Any]) -> Lanes:
    """Upper half of the product, in Python's unbounded integers."""
    product = np.asarray(a.astype(object) * b.astype(object), object)
    bits = 8 * dtype.itemsize
    return (np.asarray(product >> bits, object)).astype(dtype)


def _mad(parts: tuple[str, ...]) -> Operation | None:
    product = _mul(("mul", *parts[1:])) if _kind(parts[-1]) != "f" else None
    if product is None:
        return None
    gives, multiply = product.gives, product.compute
    return Operation(gives, (*product.takes, gives), lambda a, b, c: multiply(a, b) + c)


def _div(parts: tuple[str, ...]) -> Operation | None:
    name, how = parts[-1], parts[1:-1]
    if _kind(name) == "f":
        return Operation(name, (name, name), np.divide) if how == ("rn",) else None
    return Operation(name, (name, name), _quotient) if how == () else None


def _quotient(a: Lanes, b: Lanes) -> Lanes:
    """Towards zero; the smallest integer over -1 wraps."""
    if not np.all(b):
        raise PtxError("a division of an integer by zero")
    a, b = np.broadcast_arrays(a, b)
    if a.dtype.kind == "u":
        return a // b
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    size = _magnitude(a, unsigned) // _magnitude(b, unsigned)
    return np.where((a < 0) != (b < 0), np.negative(size), size).view(a.dtype)


def _magnitude(a: Lanes, unsigned: np.dtype[Any]) -> Lanes:
    bits = a.view(unsigned)
    return np.where(a < 0, np.negative(bits), bits)


def _rem(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    if _kind(name) == "f" or len(parts) != 2:
        return None
    return Operation(name, (name, name), lambda a, b: a - _quotient(a, b) * b)


def _min_or_max(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    if len(parts) != 2 or name == "f16":
        return None
    if _kind(name) == "f":
        compute: Callable[..., Lanes] = _least if parts[0] == "min" else _greatest
    else:
        compute = np.minimum if parts[0] == "min" else np.maximum
    return Operation(name, (name, name), compute)


def _least(a: Lanes, b: Lanes) -> Lanes:
    """A number rather than NaN; -0 lies below +0."""
    smaller = (a < b) | ((a == b) & np.signbit(a)) | np.isnan(b)
    return np.where(smaller, a, b)


def _greatest(a: Lanes, b: Lanes) -> Lanes:
    return -_least(-a, -b)


def _unary(parts: tuple[str, ...]) -> Operation | None:
    name, how = parts[-1], parts[1:-1]
    if parts[0] == "rcp":
        return Operation(name, (name,), np.reciprocal) if how == ("rn",) else None
    if how or (parts[0] != "not" and name in ("pred", "f16")):
        return None
    if parts[0] == "not" and _kind(name) not in ("b", "p"):
        return None
    compute = {"neg": np.negative, "abs": np.abs, "not": np.invert}[parts[0]]
    return Operation(name, (name,), compute)


def _logic(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    if len(parts) != 2 or _kind(name) not in ("b", "p"):
        return None
    return Operation(name, (name, name), _LOGIC[parts[0]])


def _shift(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    if len(parts) != 2 or _kind(name) == "f" or (parts[0] == "shl" and _kind(name) != "b"):
        return None
    dtype = TYPES[name]
    bits = 8 * dtype.itemsize

    def compute(a: Lanes, amount: Lanes) -> Lanes:
        beyond = amount >= bits
        by = np.where(beyond, bits - 1, amount).astype(dtype)
        if parts[0] == "shl":
            return np.where(beyond, 0, a << by).astype(dtype)
        # Of a signed number the sign alone is left, which bits - 1 gives too.
        return a >> by if dtype.kind == "i" else np.where(beyond, 0, a >> by).astype(dtype)

    return Operation(name, (name, "u32"), compute)


def _setp(parts: tuple[str, ...]) -> Operation | None:
    name, how, more = parts[-1], parts[1], parts[2:-1]
    compare = _comparison(how, _kind(name))
    if compare is None or (more and (len(more) > 1 or more[0] not in _LOGIC)):
        return None
    if not more:
        return Operation("pred", (name, name), compare)
    combine = _LOGIC[more[0]]
    return Operation("pred", (name, name, "pred"), lambda a, b, p: combine(compare(a, b), p))


def _comparison(how: str, kind: str) -> Callable[[Lanes, Lanes], Lanes] | None:
    if kind != "f":
        if kind == "b" and how not in ("eq", "ne"):
            return None
        return _COMPARE.get(how)
    if how in ("num", "nan"):
        either = how == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == either
    unordered = how.endswith("u") and how[:-1] in _COMPARE
    plain = _COMPARE.get(how[:-1] if unordered else how)
    if plain is None or how in ("lo", "ls", "hi", "hs"):
        return None
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), unordered, plain(a, b))


def _selp(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    choose: Callable[..., Lanes] = lambda a, b, p: np.where(p, a, b)  # noqa: E731
    return Operation(name, (name, name, "pred"), choose) if len(parts) == 2 else None


def _mov(parts: tuple[str, ...]) -> Operation | None:
    name = parts[-1]
    return Operation(name, (name,), lambda a: a) if len(parts) == 2 else None


def _cvta(parts: tuple[str, ...]) -> Operation | None:
    # Of global memory alone: there its addresses are the generic ones.
    if parts not in (("cvta", "to", "global", "u64"), ("cvta", "global", "u64")):
        return None
    return Operation("u64", ("u64",), lambda a: a)


def _cvt(parts: tuple[str, ...]) -> Operation | None:
    if len(parts) < 3:
        return None
    source, target, how = parts[-1], parts[-2], parts[1:-2]
    if target not in TYPES or "pred" in (source, target):
        return None
    dtype = TYPES[target]
    if _kind(source) == "f" and _kind(target) != "f":
        if len(how) != 1 or how[0] not in _ROUND_TO_INTEGER:
            return None
        rounding = _ROUND_TO_INTEGER[how[0]]
        return Operation(target, (source,), lambda a: _saturated(rounding(a), dtype))
    # Exact conversions state no rounding, all others do.
    narrows = _kind(target) == "f" and (_kind(source) != "f" or source[1:] > target[1:])
    if _kind(source) == _kind(target) == "f":
        narrows = int(source[1:]) > int(target[1:])
    if how != (("rn",) if narrows else ()):
        return None
    return Operation(target, (source,), lambda a: a.astype(dtype))


def _saturated(value: Lanes, dtype: np.dtype[Any]) -> Lanes:
    limits = np.iinfo(dtype)
    inside = (value > float(limits.min)) & (value < float(limits.max))
    exact = np.where(inside, value, 0).astype(dtype)
    beyond = np.where(value >= float(limits.max), limits.max, limits.min).astype(dtype)
    return np.where(inside, exact, np.where(np.isnan(value), 0, beyond)).astype(dtype)


_MAKERS: dict[str, Callable[[tuple[str, ...]], Operation | None]] = {
    **dict.fromkeys(("add", "sub"), _add_or_sub),
    "mul": _mul,
    "mad": _mad,
    "div": _div,
    "rem": _rem,
    **dict.fromkeys(("min", "max"), _min_or_max),
    **dict.fromkeys(("neg", "abs", "not", "rcp"), _unary),
    **dict.fromkeys(_LOGIC, _logic),
    **dict.fromkeys(("shl", "shr"), _shift),
    "setp": _setp,
    "selp": _selp,
    "mov": _mov,
    "cvt": _cvt,
    "cvta": _cvta,
}
