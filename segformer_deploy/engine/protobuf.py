"""Protobuf's wire format, as far as ONNX files need it, without the protobuf package."""

from __future__ import annotations

from collections.abc import Iterator

Value = int | memoryview


class MalformedError(Exception):
    """The bytes are not a protobuf message, or end too early."""


def varint(data: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data):
            raise MalformedError("it ends inside a number")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 63:
            raise MalformedError("a number longer than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, value) of each field; nested messages and strings as views of the bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if key >> 3 == 0:
            raise MalformedError("a field with number 0")
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MalformedError(f"a field of unknown kind {kind}")
        if at + size > len(data):
            raise MalformedError(f"a field of {size} bytes, {len(data) - at} are left")
        yield key >> 3, data[at : at + size]
        at += size


def as_text(value: Value) -> str:
    return bytes(as_message(value)).decode("utf-8")


def as_message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a number where a message is due")
    return value


def as_number(value: Value) -> int:
    if not isinstance(value, int):
        raise MalformedError("a message where a number is due")
    return value
