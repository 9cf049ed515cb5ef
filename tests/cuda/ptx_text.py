"""PTX text -> kernels as lists of instructions, for the interpreter in ptx.py."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TypeAlias

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)[^{]*\{", re.DOTALL)
_PARAM = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\w+)(?:\[(\d+)\])?")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+?)<(\d+)>$")
_VARIABLE = re.compile(r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.b8\s+(\w+)\[(\d+)\]$")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_LABEL = re.compile(r"\s*([\w$]+):(?!:)")
_SKIPPED = (".pragma", ".loc", ".file")


class PtxError(Exception):
    """The text is not PTX that this interpreter knows; names what it does not know."""


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Special:
    """%tid.x and its like."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """An integer, or the bits of a float of `width` bits (0f…, 0d…)."""

    value: int
    width: int | None = None


@dataclass(frozen=True)
class Symbol:
    name: str


@dataclass(frozen=True)
class Address:
    base: Register | Symbol
    offset: int


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


Operand: TypeAlias = "Register | Special | Immediate | Symbol | Address | Vector"


@dataclass(frozen=True)
class Instruction:
    """One line; `guard` is the predicate in front of it, `negated` its "!"."""

    text: str
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: str | None = None
    negated: bool = False


@dataclass
class Kernel:
    """One entry.

    Attributes:
        registers: prefix such as "%rd" -> type ("pred", "b16", "f32", …).
        symbols: parameters, shared and local variables -> (space, offset in it).
        sizes: space -> bytes.
        labels: name -> index of the instruction after it.
    """

    name: str
    registers: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, tuple[str, int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def place(self, name: str, space: str, size: int, align: int) -> None:
        start = -(-self.sizes.get(space, 0) // align) * align
        self.symbols[name] = (space, start)
        self.sizes[space] = start + size


def kernels_of(text: str) -> dict[str, Kernel]:
    """Every entry of a module, by name."""
    text = _COMMENT.sub("", text)
    found = {}
    for entry in _ENTRY.finditer(text):
        kernel = Kernel(entry[1])
        for kind, name, size in _PARAM.findall(entry[2]):
            width = int(kind[1:]) // 8
            kernel.place(name, "param", width * int(size or 1), 8)
        _read_body(kernel, _body(text, entry.end()))
        found[kernel.name] = kernel
    return found


def _body(text: str, start: int) -> str:
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    raise PtxError("a kernel without an end")


def _read_body(kernel: Kernel, body: str) -> None:
    for statement in body.split(";"):
        rest = statement.strip()
        while label := _LABEL.match(rest):
            kernel.labels[label[1]] = len(kernel.instructions)
            rest = rest[label.end() :].strip()
        if not rest or rest.startswith(_SKIPPED):
            continue
        if rest.startswith("."):
            _declare(kernel, rest)
        else:
            kernel.instructions.append(_instruction(rest))


def _declare(kernel: Kernel, text: str) -> None:
    text = " ".join(text.split())
    if found := _REGISTERS.match(text):
        kernel.registers[found[2]] = found[1]
    elif found := _VARIABLE.match(text):
        kernel.place(found[3], found[1], int(found[4]), int(found[2] or 1))
    else:
        raise PtxError(f"unknown declaration: {text}")


def _instruction(text: str) -> Instruction:
    text = " ".join(text.split())
    found = _INSTRUCTION.match(text)
    if not found:
        raise PtxError(f"unknown instruction: {text}")
    negation, guard, mnemonic, rest = found.groups()
    operands = tuple(_operand(one) for one in _split(rest))
    return Instruction(text, tuple(mnemonic.split(".")), operands, guard, negation == "!")


def _split(text: str) -> list[str]:
    """At commas outside braces."""
    return [one.strip() for one in re.split(r",(?![^{]*\})", text) if one.strip()]


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return Vector(tuple(_operand(one) for one in _split(text.strip("{} "))))
    if text.startswith("["):
        base, plus, offset = text.strip("[] ").partition("+")
        where = _operand(base)
        if not isinstance(where, Register | Symbol):
            raise PtxError(f"unknown address: {text}")
        return Address(where, int(offset, 0) if plus else 0)
    if "|" in text:
        return Vector(tuple(_operand(one.strip()) for one in text.split("|")))
    if re.match(r"%\w+\.[xyz]$", text):
        return Special(text)
    if text.startswith("%") or text == "_":
        return Register(text)
    if text[:2] in ("0f", "0F"):
        return Immediate(int(text[2:], 16), 32)
    if text[:2] in ("0d", "0D"):
        return Immediate(int(text[2:], 16), 64)
    if re.match(r"-?\d", text):
        return Immediate(int(text.rstrip("U"), 0))
    return Symbol(text)


def float_text(value: float) -> str:
    """A float32 as PTX spells it."""
    return f"0f{struct.unpack('<I', struct.pack('<f', value))[0]:08X}"
