"""Instructions made ready to run: operands found and typed once, then applied to lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.cuda.ptx_lanes import Frame
from tests.cuda.ptx_memory import FaultError, Lanes
from tests.cuda.ptx_operations import TYPES, operation
from tests.cuda.ptx_text import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Operand,
    PtxError,
    Register,
    Special,
    Symbol,
    Vector,
)

Step = Callable[[Frame], None]
_CACHE_OPERATORS = {"ca", "cg", "cs", "nc", "relaxed", "volatile"}


def step_of(kernel: Kernel, one: Instruction) -> Step:
    if one.parts[0] == "ld":
        return _load(kernel, one)
    if one.parts[0] == "st":
        return _store(kernel, one)
    if one.parts[0] == "mov" and any(isinstance(item, Vector) for item in one.operands):
        return _repack(kernel, one)
    meaning = operation(one.parts)
    target, *sources = one.operands
    read = [
        _reader(kernel, source, kind) for source, kind in zip(sources, meaning.takes, strict=True)
    ]
    write = _writer(kernel, target, meaning.gives)

    def step(frame: Frame) -> None:
        write(frame, meaning.compute(*[one(frame) for one in read]))

    return step


def _type_of(kernel: Kernel, register: str) -> str:
    prefix = register.rstrip("0123456789")
    if prefix not in kernel.registers:
        raise PtxError(f"{register} is not declared")
    return kernel.registers[prefix]


def _reader(kernel: Kernel, operand: Operand, kind: str) -> Callable[[Frame], Lanes]:
    """The operand as an array of `kind`; a wider register gives its lower bits."""
    dtype = TYPES[kind]
    if isinstance(operand, Immediate):
        value = _constant(operand, dtype)
        return lambda frame: value
    if isinstance(operand, Special):
        name = operand.name
        return lambda frame: _as(frame.launch.special[name][frame.lanes], dtype)
    if isinstance(operand, Symbol):
        if operand.name not in kernel.symbols:
            raise PtxError(f"unknown name: {operand.name}")
        offset = np.asarray(kernel.symbols[operand.name][1], dtype)
        return lambda frame: offset
    if not isinstance(operand, Register):
        raise PtxError(f"unknown operand: {operand}")
    register = operand.name
    if TYPES[_type_of(kernel, register)].itemsize < dtype.itemsize:
        raise PtxError(f"{register} is narrower than {kind}")
    return lambda frame: _as(frame.get(register), dtype)


def _constant(operand: Immediate, dtype: np.dtype[Any]) -> Lanes:
    if operand.width is None:
        bits = 8 * dtype.itemsize
        return np.asarray(operand.value % (1 << bits), f"u{dtype.itemsize}").view(dtype)
    exact = np.asarray(operand.value, f"u{operand.width // 8}").view(f"f{operand.width // 8}")
    return exact.astype(dtype) if dtype.kind == "f" else exact.view(dtype)


def _as(bits: Lanes, dtype: np.dtype[Any]) -> Lanes:
    if bits.dtype == dtype:
        return bits
    if bits.dtype.itemsize > dtype.itemsize:
        bits = bits.astype(f"u{dtype.itemsize}")
    return bits.view(dtype)


def _writer(kernel: Kernel, operand: Operand, kind: str) -> Callable[[Frame, Lanes], None]:
    """Store into a register, extended by its sign or by zeros where the register is wider."""
    if isinstance(operand, Vector):
        first, second = (_writer(kernel, item, kind) for item in operand.items)

        def both(frame: Frame, value: Lanes) -> None:
            first(frame, value)
            second(frame, ~value)

        if kind != "pred":
            raise PtxError("two targets of something else than a comparison")
        return both
    if not isinstance(operand, Register):
        raise PtxError(f"unknown target: {operand}")
    name = operand.name
    if name == "_":
        return lambda frame, value: None
    held = _type_of(kernel, name)
    if held == "pred" or kind == "pred":
        if held != kind:
            raise PtxError(f"{name} holds {held}, not {kind}")
        return lambda frame, value: frame.set(name, np.asarray(value, bool))
    width, given = TYPES[held].itemsize, TYPES[kind]
    if width < given.itemsize:
        raise PtxError(f"{name} is narrower than {kind}")
    wide = np.dtype(f"{'i' if given.kind == 'i' else 'u'}{width}")

    def write(frame: Frame, value: Lanes) -> None:
        value = np.asarray(value, given)
        if width > given.itemsize:
            value = (value.view(f"u{given.itemsize}") if given.kind == "f" else value).astype(wide)
        frame.set(name, value.view(f"u{width}"))

    return write


def _targets(operand: Operand) -> Sequence[Operand]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def _access(one: Instruction) -> tuple[str, str, int]:
    """Space, type and number of values of a load or a store."""
    *middle, kind = one.parts[1:]
    space = next((part for part in middle if part in ("global", "shared", "param", "local")), "")
    count = next((int(part[1:]) for part in middle if part in ("v2", "v4")), 1)
    known = _CACHE_OPERATORS | {space, f"v{count}"}
    if not space or kind not in TYPES or kind == "pred" or not set(middle) <= known:
        raise PtxError(f"unknown instruction: {one.text}")
    return space, kind, count


def _place(kernel: Kernel, address: Operand, space: str) -> Callable[[Frame], Lanes]:
    if not isinstance(address, Address):
        raise PtxError(f"unknown address: {address}")
    # Shared memory may be addressed with 32 bits; below zero, an offset brings it back.
    short = isinstance(address.base, Register) and _type_of(kernel, address.base.name) == "b32"
    base = _reader(kernel, address.base, "s32" if short and space != "global" else "s64")
    if isinstance(address.base, Symbol) and kernel.symbols[address.base.name][0] != space:
        raise PtxError(f"{address.base.name} does not lie in {space} memory")
    offset = address.offset
    return lambda frame: np.broadcast_to(base(frame).astype(np.int64) + offset, len(frame.lanes))


def _load(kernel: Kernel, one: Instruction) -> Step:
    space, kind, count = _access(one)
    dtype = TYPES[kind]
    target, address = one.operands
    place = _place(kernel, address, space)
    writers = [_writer(kernel, item, kind) for item in _targets(target)]
    if len(writers) != count:
        raise PtxError(f"{count} values for {len(writers)} registers")

    def step(frame: Frame) -> None:
        at = place(frame)
        for index, write in enumerate(writers):
            write(frame, _loaded(frame, space, at + index * dtype.itemsize, dtype))

    return step


def _loaded(frame: Frame, space: str, at: Lanes, dtype: np.dtype[Any]) -> Lanes:
    launch = frame.launch
    if space == "global":
        return launch.memory.load(at, dtype, frame.threads)
    if space == "shared":
        return launch.shared.load(launch.room[frame.lanes], at, dtype, frame.threads)
    if space == "local":
        return launch.local.load(frame.lanes, at, dtype, frame.threads)
    outside = (at < 0) | (at > len(launch.parameters) - dtype.itemsize)
    if outside.any():
        raise FaultError(int(np.argmax(outside)), "outside of the parameters")
    # A field need not lie at a multiple of 8, and nothing here is large: byte by byte.
    parts = [launch.constants[at + byte] for byte in range(dtype.itemsize)]
    return np.ascontiguousarray(np.stack(parts, -1)).view(dtype)[..., 0]


def _store(kernel: Kernel, one: Instruction) -> Step:
    space, kind, count = _access(one)
    dtype = TYPES[kind]
    address, source = one.operands
    place = _place(kernel, address, space)
    readers = [_reader(kernel, item, kind) for item in _targets(source)]
    if len(readers) != count or space == "param":
        raise PtxError(f"unknown instruction: {one.text}")

    def step(frame: Frame) -> None:
        at = place(frame)
        for index, read in enumerate(readers):
            values = np.broadcast_to(read(frame), len(frame.lanes))
            _stored(frame, space, at + index * dtype.itemsize, values)

    return step


def _stored(frame: Frame, space: str, at: Lanes, values: Lanes) -> None:
    launch = frame.launch
    if space == "global":
        launch.memory.store(at, values, frame.threads)
    elif space == "shared":
        launch.shared.store(launch.room[frame.lanes], at, values, frame.threads)
    else:
        launch.local.store(frame.lanes, at, values, frame.threads)


def _repack(kernel: Kernel, one: Instruction) -> Step:
    """mov between one register and the halves of it."""
    target, source = one.operands
    whole = int(one.parts[-1][1:])
    if isinstance(target, Vector):
        count, kinds = len(target.items), f"b{whole // len(target.items)}"
        read = _reader(kernel, source, one.parts[-1])
        writers = [_writer(kernel, item, kinds) for item in target.items]

        def unpack(frame: Frame) -> None:
            value = np.broadcast_to(read(frame), len(frame.lanes))
            halves = np.ascontiguousarray(value).view(TYPES[kinds]).reshape(-1, count)
            for index, write in enumerate(writers):
                write(frame, halves[:, index])

        return unpack
    assert isinstance(source, Vector)
    kinds = f"b{whole // len(source.items)}"
    readers = [_reader(kernel, item, kinds) for item in source.items]
    write_whole = _writer(kernel, target, one.parts[-1])

    def pack(frame: Frame) -> None:
        parts = [np.broadcast_to(read(frame), len(frame.lanes)) for read in readers]
        joined = np.ascontiguousarray(np.stack(parts, -1)).view(TYPES[one.parts[-1]])
        write_whole(frame, joined[:, 0])

    return pack
