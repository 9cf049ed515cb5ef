"""The nodes and weights of an ONNX file, without the onnx package.

Only what the exporter writes is read: initializers as raw bytes in the file itself, integer
and float attributes. Weights are views into the mapped file; copy what is to outlive it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.protobuf import (
    MalformedError,
    as_message,
    as_number,
    as_text,
    fields,
    varint,
)
from segformer_deploy.errors import OnnxFileError

# onnx.proto, TensorProto.DataType.
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}


@dataclass(frozen=True)
class Node:
    """One operation; attributes are integers, floats or tuples of integers."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes in the file's order; weights by name, read-only; bytes where the type is unknown."""

    nodes: tuple[Node, ...]
    weights: dict[str, npt.NDArray[Any]]
    mapped: mmap.mmap | None = None
    """The file that `weights` lie in."""

    def release(self) -> None:
        """Let the system have the file's pages: what is used again is read again (POSIX)."""
        if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def read_onnx_graph(path: Path) -> OnnxGraph:
    """Nodes and weights of the file at `path`; OnnxFileError where it does not read."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = memoryview(mapped)
        graph = next((as_message(v) for n, v in fields(data) if n == 7), data[:0])
        nodes, weights = [], {}
        for number, value in fields(graph):
            if number == 1:
                nodes.append(_node(as_message(value)))
            elif number == 5:
                name, array = _tensor(as_message(value))
                weights[name] = array
    except (OSError, ValueError, struct.error, MalformedError) as error:
        raise OnnxFileError(
            f"the weights in {path} do not read ({error})",
            "a complete ONNX file with its weights inside",
            "copy the file again, or export it again with segdeploy export",
        ) from error
    return OnnxGraph(tuple(nodes), weights, mapped)


def _node(data: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Any] = {}
    name = op = ""
    for number, value in fields(data):
        if number == 1:
            inputs.append(as_text(value))
        elif number == 2:
            outputs.append(as_text(value))
        elif number == 3:
            name = as_text(value)
        elif number == 4:
            op = as_text(value)
        elif number == 5:
            key, content = _attribute(as_message(value))
            attributes[key] = content
    return Node(op, name, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview) -> tuple[str, Any]:
    """AttributeProto: 1 name, 2 float, 3 int, 4 string, 8 ints; other kinds are left out."""
    name, content = "", None
    many: list[int] = []
    for number, value in fields(data):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            content = struct.unpack("<f", as_message(value))[0]
        elif number == 3:
            content = _signed(as_number(value))
        elif number == 4:
            content = as_text(value)
        elif number == 8:
            many += _integers(value)
    return name, tuple(many) if many else content


def _integers(value: int | memoryview) -> list[int]:
    """A repeated int64: one by one, or packed into a message."""
    if isinstance(value, int):
        return [_signed(value)]
    # A packed field is varints one after another; as field contents they have no keys.
    result, at = [], 0
    while at < len(value):
        one, at = varint(value, at)
        result.append(_signed(one))
    return result


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _tensor(data: memoryview) -> tuple[str, npt.NDArray[Any]]:
    """TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data, 13 external data."""
    dims: list[int] = []
    name, dtype = "", 0
    raw = data[:0]
    for number, value in fields(data):
        if number == 1:
            dims += _integers(value)
        elif number == 2:
            dtype = as_number(value)
        elif number == 8:
            name = as_text(value)
        elif number == 9:
            raw = as_message(value)
        elif number == 13:
            raise MalformedError(f"the weight {name or '?'} lies in another file")
    if dtype not in _DTYPES:  # known to be there, not what it says
        return name, np.frombuffer(raw, np.uint8)
    return name, np.frombuffer(raw, _DTYPES[dtype]).reshape(dims)
