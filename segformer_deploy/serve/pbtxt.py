"""Protocol buffers' text format, as much of it as a Triton configuration needs.

A message is a list of (field, value) pairs, so that a field may come several times. Written by
hand because the base install has no protobuf; the tests read it with protobuf's own reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = list[tuple[str, Any]]
"""Values: text, a number, a truth, a `Word`, a list of them, or a message."""


@dataclass(frozen=True)
class Word:
    """A name of an enumeration, written without quotes: ``TYPE_UINT8``."""

    name: str


def text_from_message(message: Message, indent: str = "") -> str:
    """The lines of `message`, each ended by a newline."""
    return "".join(_field(name, value, indent) for name, value in message)


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        inner = text_from_message(value, indent + "  ")
        return f"{indent}{name} {{\n{inner}{indent}}}\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    return "[" + ", ".join(_scalar(one) for one in value) + "]"


def quoted(text: str) -> str:
    """`text` between quotes: what is not printable ASCII as octal escapes of its UTF-8 bytes."""
    pieces = []
    for byte in text.encode("utf-8"):
        if byte in b'"\\':
            pieces.append("\\" + chr(byte))
        elif 32 <= byte < 127:
            pieces.append(chr(byte))
        else:
            pieces.append(f"\\{byte:03o}")
    return '"' + "".join(pieces) + '"'
