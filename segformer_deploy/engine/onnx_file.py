"""Reading what an ONNX file says of itself, without the onnx package.

An edge device has a file and perhaps one engine library; TensorRT's parser hands out no
metadata. The few fields we need lie in protobuf's wire format (onnx.proto: ModelProto
fields 1, 2, 3, 7, 8, 14), so this walks over them and skips the weights unread.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.engine.protobuf import (
    MalformedError,
    as_message,
    as_number,
    as_text,
    fields,
)
from segformer_deploy.engine.session import TensorInfo
from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.spec import METADATA_KEY, ModelSpec

# onnx.proto, TensorProto.DataType: the types our graphs have at their borders.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
_EXPORT_AGAIN = "make it with: segdeploy export --variant b0 (or --checkpoint FOLDER)"


@dataclass(frozen=True)
class OnnxHeader:
    """What stands at an ONNX file's borders."""

    ir_version: int
    producer: str
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    node_count: int
    metadata: dict[str, str]
    producer_version: str = ""


def read_onnx_header(path: Path) -> OnnxHeader:
    """Read the header of the ONNX file at `path`.

    Raises OnnxFileError where the file is missing, empty, cut off or not ONNX.
    """
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise OnnxFileError(f"{path} {what}", "an ONNX file", _EXPORT_AGAIN)
        if path.stat().st_size == 0:
            raise OnnxFileError(f"{path} is empty (0 bytes)", "an ONNX file", _EXPORT_AGAIN)
        # The map closes when its last view goes: errors below still hold some in their frames.
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _header_from_model(memoryview(data))
    except OSError as error:
        raise OnnxFileError(
            f"{path} cannot be read: {error.strerror}", "a readable file"
        ) from error
    except (MalformedError, UnicodeDecodeError) as error:
        raise OnnxFileError(
            f"{path} is cut off or is not an ONNX file ({error})",
            "a complete ONNX file",
            "copy it again, or " + _EXPORT_AGAIN,
        ) from None
    if not header.inputs or not header.opset:
        raise OnnxFileError(
            f"{path} is cut off or is not an ONNX file (no graph input or opset)",
            "a complete ONNX file",
            "copy it again, or " + _EXPORT_AGAIN,
        )
    return header


def spec_from_onnx(path: Path) -> ModelSpec:
    """The ModelSpec inside an ONNX file that `segdeploy export` made; OnnxFileError otherwise."""
    header = read_onnx_header(path)
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        raise OnnxFileError(
            f"{path} is ONNX (from {header.producer or 'an unnamed producer'}) but was not "
            "exported by segdeploy: it has no 'segdeploy' metadata",
            "an ONNX file that states its classes, normalisation and resize rule",
            _EXPORT_AGAIN,
        )
    spec = ModelSpec.from_json(text)
    names = [tensor.name for tensor in header.inputs], [tensor.name for tensor in header.outputs]
    if names != (["image"], [spec.output]):
        raise OnnxFileError(
            f"{path} has inputs {names[0]} and outputs {names[1]}",
            f"input 'image' and output '{spec.output}', as its metadata says",
            _EXPORT_AGAIN,
        )
    logits = header.outputs[0].shape
    if spec.output == "logits" and (len(logits) != 4 or logits[1] != spec.classes):
        raise SpecError(
            f"{path}: the graph gives logits {logits}, its metadata names {spec.classes} classes",
            "one logit channel per class",
            _EXPORT_AGAIN,
        )
    return spec


def _header_from_model(data: memoryview) -> OnnxHeader:
    ir_version = opset = nodes = 0
    producer = version_of_producer = ""
    metadata: dict[str, str] = {}
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for number, value in fields(data):
        if number == 1:
            ir_version = as_number(value)
        elif number == 2:
            producer = as_text(value)
        elif number == 3:
            version_of_producer = as_text(value)
        elif number == 7:
            for inner, part in fields(as_message(value)):
                nodes += inner == 1
                if inner in (11, 12):
                    (inputs if inner == 11 else outputs).append(_tensor_info(as_message(part)))
        elif number == 8:
            domain, version = _opset(as_message(value))
            opset = version if domain in ("", "ai.onnx") else opset
        elif number == 14:
            pair = {inner: as_text(part) for inner, part in fields(as_message(value))}
            metadata[pair.get(1, "")] = pair.get(2, "")
    return OnnxHeader(
        ir_version,
        producer,
        opset,
        tuple(inputs),
        tuple(outputs),
        nodes,
        metadata,
        version_of_producer,
    )


def _opset(data: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in fields(data):
        if number == 1:
            domain = as_text(value)
        elif number == 2:
            version = as_number(value)
    return domain, version


def _first(data: memoryview, wanted: int) -> memoryview:
    for number, value in fields(data):
        if number == wanted:
            return as_message(value)
    return data[:0]


def _tensor_info(data: memoryview) -> TensorInfo:
    name = bytes(_first(data, 1)).decode("utf-8")
    tensor = _first(_first(data, 2), 1)
    dtype = next((as_number(v) for n, v in fields(tensor) if n == 1), 0)
    shape: list[int | None] = []
    for number, dim in fields(_first(tensor, 2)):
        if number == 1:
            sizes = [as_number(v) for n, v in fields(as_message(dim)) if n == 1]
            shape.append(sizes[0] if sizes else None)
    return TensorInfo(name, _DTYPES.get(dtype, f"onnx type {dtype}"), tuple(shape))
