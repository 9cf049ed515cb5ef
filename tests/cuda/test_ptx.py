"""The PTX interpreter against Python's own integers and floats, and what it must refuse."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cuda.ptx import Program
from tests.cuda.ptx_memory import Memory
from tests.cuda.ptx_operations import TYPES
from tests.cuda.ptx_text import PtxError, float_text, kernels_of

Array = Any
_REGISTERS = {1: "rs", 2: "rs", 4: "r", 8: "rd"}
_HEAD = """.version 8.5
.target sm_75
.visible .entry k(.param .align 8 .b8 k_param_0[{size}])
{{
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<19>; .reg .b64 %rd<29>; .reg .f32 %f<9>;
.shared .align 4 .b8 room[256];
{body}
ret;
}}
"""


def run(body: str, *arrays: Array, outputs: int = 1, block: int = 32, grid: int = 1) -> int:
    """Run `body` with the address of the n-th array in %rd{20 + n}; the last ones are written."""
    memory = Memory()
    addresses = []
    for index, array in enumerate(arrays):
        taken = index >= len(arrays) - outputs
        addresses.append((memory.take if taken else memory.give)(array, f"array {index}"))
    loads = "".join(f"ld.param.u64 %rd{20 + n}, [k_param_0+{8 * n}];" for n in range(len(arrays)))
    text = _HEAD.format(size=8 * len(arrays), body=loads + body)
    parameters = struct.pack(f"<{len(arrays)}Q", *addresses)
    steps = Program(kernels_of(text)["k"]).run((grid, 1, 1), block, parameters, memory)
    memory.close()
    return steps


def computed(mnemonic: str, gives: str, *operands: tuple[str, Array]) -> Array:
    """One instruction on arrays: each operand's type and values, as many as there are threads."""
    count = len(operands[0][1])
    out = np.zeros(count, TYPES[gives] if gives != "pred" else np.uint8)
    body, names = ["mov.u32 %r18, %tid.x;"], []
    arrays = [np.asarray(values, TYPES[kind]) for kind, values in operands]
    for index, (kind, _) in enumerate(operands):
        names.append(_register(kind, index))
        body.append(_moved("ld.global", kind, 20 + index, names[-1]))
    target = "%p8" if gives == "pred" else _register(gives, 8)
    body.append(f"{mnemonic} {', '.join([target, *names])};")
    if gives == "pred":
        body.append("selp.b16 %rs8, 1, 0, %p8;")
        target, gives = "%rs8", "u8"
    body.append(_moved("st.global", gives, 20 + len(operands), target))
    run("\n".join(body), *arrays, out, block=count)
    return out


def _register(kind: str, index: int) -> str:
    return f"%{'f' if kind == 'f32' else _REGISTERS[TYPES[kind].itemsize]}{index}"


def _moved(how: str, kind: str, pointer: int, register: str) -> str:
    at = f"mul.wide.u32 %rd19, %r18, {TYPES[kind].itemsize}; add.s64 %rd19, %rd{pointer}, %rd19;"
    kind = "b16" if kind == "f16" else kind
    pair = ("[%rd19]", register) if how.startswith("st") else (register, "[%rd19]")
    return f"{at} {how}.{kind} {', '.join(pair)};"


# ---- integers ----------------------------------------------------------------------------


def limits(kind: str) -> tuple[int, int]:
    bits = int(kind[1:])
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)


def wrapped(value: int, kind: str) -> int:
    bits = int(kind[1:])
    value %= 1 << bits
    return value - (1 << bits) if kind[0] == "s" and value >> bits - 1 else value


def integers(kind: str) -> st.SearchStrategy[list[int]]:
    least, most = limits(kind)
    edges = st.sampled_from(sorted({least, least + 1, 0, 1, most - 1, most}))
    return st.lists(edges | st.integers(least, most), min_size=8, max_size=8)


def _cut(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


TWO: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": _cut,
    "rem": lambda a, b: a - _cut(a, b) * b,
}


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("name", TWO)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_integer_arithmetic(name: str, kind: str, data: st.DataObject) -> None:
    a, b = data.draw(integers(kind)), data.draw(integers(kind))
    if name in ("div", "rem"):
        b = [value or 1 for value in b]
    expected = [wrapped(TWO[name](x, y), kind) for x, y in zip(a, b, strict=True)]
    assert computed(f"{name}.{kind}", kind, (kind, a), (kind, b)).tolist() == expected


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_wide_and_high_products(kind: str, data: st.DataObject) -> None:
    a, b = data.draw(integers(kind)), data.draw(integers(kind))
    wide = f"{kind[0]}{2 * int(kind[1:])}"
    c = data.draw(integers(wide))
    full = [x * y for x, y in zip(a, b, strict=True)]
    assert computed(f"mul.wide.{kind}", wide, (kind, a), (kind, b)).tolist() == full
    high = [value >> int(kind[1:]) for value in full]
    assert computed(f"mul.hi.{kind}", kind, (kind, a), (kind, b)).tolist() == high
    summed = [wrapped(x + y, wide) for x, y in zip(full, c, strict=True)]
    given_ = ((kind, a), (kind, b), (wide, c))
    assert computed(f"mad.wide.{kind}", wide, *given_).tolist() == summed


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_mad_and_high_product_of_full_words(kind: str, data: st.DataObject) -> None:
    a, b, c = (data.draw(integers(kind)) for _ in range(3))
    low = [wrapped(x * y + z, kind) for x, y, z in zip(a, b, c, strict=True)]
    assert computed(f"mad.lo.{kind}", kind, (kind, a), (kind, b), (kind, c)).tolist() == low
    high = [wrapped((x * y) >> int(kind[1:]), kind) for x, y in zip(a, b, strict=True)]
    assert computed(f"mul.hi.{kind}", kind, (kind, a), (kind, b)).tolist() == high


@pytest.mark.parametrize("bits", [16, 32, 64])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_bits_and_shifts(bits: int, data: st.DataObject) -> None:
    kind, signed = f"b{bits}", f"s{bits}"
    a, b = data.draw(integers(f"u{bits}")), data.draw(integers(f"u{bits}"))
    for name, reference in (("and", int.__and__), ("or", int.__or__), ("xor", int.__xor__)):
        expected = [reference(x, y) for x, y in zip(a, b, strict=True)]
        assert computed(f"{name}.{kind}", kind, (kind, a), (kind, b)).tolist() == expected
    assert computed(f"not.{kind}", kind, (kind, a)).tolist() == [~x % (1 << bits) for x in a]
    by = data.draw(st.lists(st.integers(0, 2 * bits) | st.just(2**32 - 1), min_size=8, max_size=8))
    left = [(x << y) % (1 << bits) if y < bits else 0 for x, y in zip(a, by, strict=True)]
    assert computed(f"shl.{kind}", kind, (kind, a), ("u32", by)).tolist() == left
    right = [x >> min(y, bits) for x, y in zip(a, by, strict=True)]
    assert computed(f"shr.u{bits}", kind, (kind, a), ("u32", by)).tolist() == right
    whole = [wrapped(x, signed) for x in a]
    kept = [x >> min(y, bits) for x, y in zip(whole, by, strict=True)]
    assert computed(f"shr.{signed}", signed, (signed, whole), ("u32", by)).tolist() == kept
    assert computed(f"neg.{signed}", signed, (signed, whole)).tolist() == [
        wrapped(-x, signed) for x in whole
    ]


# ---- floats ------------------------------------------------------------------------------

FLOATS = st.floats(width=32) | st.sampled_from(
    [0.0, -0.0, 2.0**-149, 2.0**128 - 2.0**104, math.inf, math.nan]
)
_EIGHT = st.lists(FLOATS, min_size=8, max_size=8)


def same(found: Array, expected: Array) -> bool:
    """Bit for bit, but any NaN is NaN."""
    expected = np.asarray(expected, found.dtype)
    bits = f"u{found.itemsize}"
    return bool(
        ((found.view(bits) == expected.view(bits)) | (np.isnan(found) & np.isnan(expected))).all()
    )


def rounded(value: float) -> np.float32:
    # One more rounding through float64 changes no sum, product or quotient of float32:
    # it has more than twice the digits.
    with np.errstate(over="ignore"):
        return np.float32(value)


@settings(max_examples=60, deadline=None)
@given(a=_EIGHT, b=_EIGHT)
def test_float_arithmetic_rounds_once(a: list[float], b: list[float]) -> None:
    pairs = list(zip(a, b, strict=True))
    given_ = (("f32", a), ("f32", b))
    for name, reference in (
        ("add.rn.f32", lambda x, y: x + y),
        ("sub.rn.f32", lambda x, y: x - y),
        ("mul.rn.f32", lambda x, y: x * y),
    ):
        expected = [rounded(reference(x, y)) for x, y in pairs]
        assert same(computed(name, "f32", *given_), expected), name
    least = [y if math.isnan(x) else x if math.isnan(y) else min(x, y) for x, y in pairs]
    found = computed("min.f32", "f32", *given_)
    assert same(found + np.float32(0), np.float32(least) + np.float32(0))
    most = [y if math.isnan(x) else x if math.isnan(y) else max(x, y) for x, y in pairs]
    found = computed("max.f32", "f32", *given_)
    assert same(found + np.float32(0), np.float32(most) + np.float32(0))


def test_minimum_and_maximum_of_zeros() -> None:
    zeros = (("f32", [0.0, -0.0]), ("f32", [-0.0, 0.0]))
    assert np.signbit(computed("min.f32", "f32", *zeros)).all()
    assert not np.signbit(computed("max.f32", "f32", *zeros)).any()


@settings(max_examples=40, deadline=None)
@given(a=st.lists(st.floats(width=64), min_size=8, max_size=8))
def test_doubles(a: list[float]) -> None:
    double = ("b64", np.float64(a).view(np.uint64))
    with np.errstate(all="ignore"):
        inverse = [1.0 / x if x else math.copysign(math.inf, x) for x in a]
    assert same(computed("rcp.rn.f64", "b64", double).view(np.float64), inverse)
    doubled = computed("add.rn.f64", "b64", double, double).view(np.float64)
    assert same(doubled, [x + x for x in a])
    assert same(computed("cvt.rn.f32.f64", "f32", double), [rounded(x) for x in a])


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "eq": float.__eq__,
    "ne": float.__ne__,
    "lt": float.__lt__,
    "le": float.__le__,
    "gt": float.__gt__,
    "ge": float.__ge__,
}


@pytest.mark.parametrize("name", COMPARISONS)
@settings(max_examples=30, deadline=None)
@given(a=_EIGHT, b=_EIGHT)
def test_comparisons_of_floats(name: str, a: list[float], b: list[float]) -> None:
    given_ = (("f32", a), ("f32", b))
    unordered = [math.isnan(x) or math.isnan(y) for x, y in zip(a, b, strict=True)]
    plain = [COMPARISONS[name](x, y) for x, y in zip(a, b, strict=True)]
    ordered = [p and not u for p, u in zip(plain, unordered, strict=True)]
    either = [p or u for p, u in zip(plain, unordered, strict=True)]
    assert computed(f"setp.{name}.f32", "pred", *given_).tolist() == ordered
    assert computed(f"setp.{name}u.f32", "pred", *given_).tolist() == either
    assert computed("setp.nan.f32", "pred", *given_).tolist() == unordered
    assert computed("setp.num.f32", "pred", *given_).tolist() == [not u for u in unordered]


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_comparisons_of_integers(kind: str, data: st.DataObject) -> None:
    a, b = data.draw(integers(kind)), data.draw(integers(kind))
    for name in COMPARISONS:
        expected = [getattr(x, f"__{name}__")(y) for x, y in zip(a, b, strict=True)]
        assert computed(f"setp.{name}.{kind}", "pred", (kind, a), (kind, b)).tolist() == expected


# ---- conversions -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("target", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_conversions_of_integers(source: str, target: str, data: st.DataObject) -> None:
    a = data.draw(integers(source))
    expected = [wrapped(x, target) for x in a]
    assert computed(f"cvt.{target}.{source}", target, (source, a)).tolist() == expected


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u16"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_conversions_between_integers_and_floats(kind: str, data: st.DataObject) -> None:
    a = data.draw(integers(kind))
    nearest = [struct.unpack("<f", struct.pack("<f", x))[0] for x in a if abs(x) < 2**53]
    held = [x for x in a if abs(x) < 2**53]
    if held:
        assert same(computed(f"cvt.rn.f32.{kind}", "f32", (kind, held)), nearest)
    floats = data.draw(_EIGHT)
    least, most = limits(kind)
    for how, integer in (("rzi", math.trunc), ("rni", round), ("rmi", math.floor)):
        expected = [
            0 if math.isnan(x) else (most if x > 0 else least) if math.isinf(x)
            else max(least, min(most, integer(x)))
            for x in map(float, np.float32(floats))
        ]  # fmt: skip
        found = computed(f"cvt.{how}.{kind}.f32", kind, ("f32", floats))
        assert found.tolist() == expected, how


def test_every_half_and_its_way_back() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    exact = computed("cvt.f32.f16", "f32", ("f16", halves.view(np.float16)))
    assert same(exact, halves.view(np.float16).astype(np.float32))
    back = computed("cvt.rn.f16.f32", "u16", ("f32", exact))
    assert same(back.view(np.float16), halves.view(np.float16))
    doubles = computed("cvt.f64.f32", "b64", ("f32", exact)).view(np.float64)
    with np.errstate(invalid="ignore"):
        assert same(doubles, exact.astype(np.float64))


def test_choice_and_halves_of_a_register() -> None:
    a, b, out = np.arange(8, dtype=np.uint64) << 33 | 5, np.arange(8, dtype=np.uint64), np.zeros(8)
    out = out.astype(np.uint64)
    body = """
    mov.u32 %r1, %tid.x; mul.wide.u32 %rd1, %r1, 8; add.s64 %rd2, %rd20, %rd1;
    ld.global.b64 %rd3, [%rd2]; mov.b64 {%r2, %r3}, %rd3; mov.b64 {%r6, _}, %rd3;
    setp.gt.u32 %p1, %r3, 6; add.s32 %r6, %r6, 1; mov.b64 %rd4, {%r6, %r3};
    selp.b64 %rd5, %rd3, %rd4, %p1; add.s64 %rd6, %rd22, %rd1; st.global.b64 [%rd6], %rd5;
    """
    run(body, a, b, out, block=8)
    expected = [int(x) if x >> 33 > 3 else (int(x) >> 32 << 32) | 6 for x in a]
    assert out.tolist() == expected


def test_vectors_and_loads_into_wider_registers() -> None:
    data = np.array([-1, 2, -3, 4], np.int32)
    small = np.array([-5, 6, -7, 8], np.int8)
    out = np.zeros(6, np.int64)
    body = """
    ld.global.v2.u32 {%r1, %r2}, [%rd20+8]; ld.global.s32 %rd1, [%rd20];
    ld.global.u32 %rd2, [%rd20];
    ld.global.s8 %r3, [%rd21]; ld.global.u8 %r4, [%rd21]; cvt.s64.s32 %rd3, %r3;
    cvt.u64.u32 %rd4, %r4; setp.ne.s32 %p1, %r1, -3; @%p1 bra NEVER;
    st.global.b64 [%rd22], %rd1; st.global.v2.b64 [%rd22+16], {%rd2, %rd3};
    st.global.b64 [%rd22+32], %rd4;
    NEVER:
    cvt.s64.s32 %rd5, %r2; st.global.b64 [%rd22+40], %rd5; st.global.b64 [%rd22+8], 7;
    """
    run(body, data, small, out, block=1)
    assert out.tolist() == [-1, 7, 2**32 - 1, -5, 251, 4]


# ---- threads -----------------------------------------------------------------------------


def test_lanes_that_loop_differently_long() -> None:
    """Collatz: every thread goes its own way and all come back."""
    out = np.zeros(96, np.uint32)
    body = """
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;
    mad.lo.s32 %r4, %r2, %r3, %r1; add.s32 %r5, %r4, 1; mov.u32 %r6, 0;
    AGAIN:
    setp.eq.s32 %p1, %r5, 1; @%p1 bra DONE;
    add.s32 %r6, %r6, 1; and.b32 %r7, %r5, 1; setp.eq.s32 %p2, %r7, 1;
    @%p2 mad.lo.s32 %r5, %r5, 3, 1;
    @!%p2 shr.u32 %r5, %r5, 1;
    bra.uni AGAIN;
    DONE:
    mul.wide.u32 %rd1, %r4, 4; add.s64 %rd2, %rd20, %rd1; st.global.u32 [%rd2], %r6;
    """
    run(body, out, grid=3)

    def length(n: int) -> int:
        return 0 if n == 1 else 1 + length(3 * n + 1 if n % 2 else n // 2)

    assert out.tolist() == [length(n + 1) for n in range(96)]


_REVERSED = """
mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, room; add.s32 %r4, %r3, %r2;
st.shared.u32 [%r4], %r1;
{barrier}
sub.s32 %r5, 31, %r1; shl.b32 %r6, %r5, 2; add.s32 %r7, %r3, %r6; ld.shared.u32 %r8, [%r7];
mov.u32 %r9, %ctaid.x; mad.lo.s32 %r10, %r9, 32, %r1;
mul.wide.u32 %rd1, %r10, 4; add.s64 %rd2, %rd20, %rd1; st.global.u32 [%rd2], %r8;
"""


def test_a_barrier_orders_shared_memory() -> None:
    out = np.zeros(64, np.uint32)
    run(_REVERSED.format(barrier="bar.sync 0;"), out, grid=2)
    assert out.tolist() == list(range(31, -1, -1)) * 2


def test_without_the_barrier_it_is_a_race() -> None:
    with pytest.raises(PtxError, match=r"ld\.shared\.u32 .*thread \d+ of block .* in a race"):
        run(_REVERSED.format(barrier=""), np.zeros(64, np.uint32), grid=2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("fma.rn.f32 %f1, %f1, %f1, %f1;", "unknown instruction: fma.rn.f32"),
        ("mov.f32 %f1, 0f00000000; add.f32 %f1, %f1, %f1;", "unknown instruction: add.f32"),
        ("mov.f32 %f1, 0f00000000; mul.rn.ftz.f32 %f1, %f1, %f1;", "unknown instruction: mul.rn.f"),
        ("atom.global.add.u32 %r1, [%rd20], 1;", "unknown instruction: atom"),
        ("add.s32 %r1, %r2, 1;", "%r2 is read before it is written"),
        ("mov.u32 %q1, 1;", "%q1 is not declared"),
        ("mov.u32 %rs1, 1;", "%rs1 is narrower than u32"),
        ("ld.global.u32 %r1, [%rd20+128];", r"thread 0 of block \(0, 0, 0\): byte 128 of array 0"),
        ("ld.global.u32 %r1, [%rd20+-4];", "byte -4 of array 0"),
        ("ld.global.u32 %r1, [%rd20+2];", "byte 2 of array 0 is not a multiple of 4"),
        ("mov.u64 %rd1, 64; ld.global.u32 %r1, [%rd1];", "address 0x40 is no memory"),
        ("ld.global.u32 %r1, [%rd20];", "is read before anything was written"),
        ("st.global.u32 [%rd20], 1;", "is written twice in a race"),
        ("ld.shared.u32 %r1, [room];", "is read before anything was written"),
        ("st.shared.u32 [room+256], 1;", "of 256 bytes lies outside"),
        ("ld.param.u64 %rd1, [k_param_0+8];", "outside of the parameters"),
        ("bra NOWHERE;", "no label"),
        ("mov.u32 %r1, 0; div.u32 %r1, 1, %r1;", "division of an integer by zero"),
        (
            "mov.u32 %r1, %tid.x; setp.eq.s32 %p1, %r1, 3; @%p1 bra X; bar.sync 0; ret; "
            "X: bar.sync 0;",
            "a block waits at 2 barriers",
        ),
    ],
)
def test_it_refuses(body: str, says: str) -> None:
    with pytest.raises(PtxError, match=says):
        run(body, np.zeros(32, np.uint32))


def test_a_loop_without_an_end() -> None:
    text = _HEAD.format(size=8, body="AGAIN: bra AGAIN;")
    with pytest.raises(PtxError, match="k: no end after 1000 steps"):
        Program(kernels_of(text)["k"]).run((1, 1, 1), 32, bytes(8), Memory(), most_steps=1000)


def test_inputs_are_not_written() -> None:
    body = "mov.u32 %r1, 0; st.global.u32 [%rd20], %r1;"
    with pytest.raises(PtxError, match="array 0 may not be written"):
        run(body, np.zeros(4, np.uint32), outputs=0)


def test_constants_are_spelt_as_in_ptx() -> None:
    assert float_text(-3.5) == "0fC0600000"
    out = np.zeros(1, np.float32)
    run(f"mov.f32 %f1, {float_text(-3.5)}; st.global.f32 [%rd20], %f1;", out, block=1)
    assert out[0] == -3.5
