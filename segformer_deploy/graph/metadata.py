"""Reading and writing what a graph says of itself."""

from __future__ import annotations

import json
from typing import Any

import onnx

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.spec import METADATA_KEY, PRECISION_KEY, ModelSpec

_EXPORT = "export one with: segdeploy export"


def checked_spec(model: onnx.ModelProto, output: str = "logits") -> ModelSpec:
    """The ModelSpec of a graph from ``image`` to `output`; OnnxFileError where it is not one."""
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != ["image"] or outputs != [output]:
        raise OnnxFileError(
            f"a graph with inputs {inputs} and outputs {outputs}",
            f"input image and output {output}",
            _EXPORT,
        )
    text = _entry(model, METADATA_KEY)
    if text is None:
        raise OnnxFileError(
            f"a graph without the metadata '{METADATA_KEY}'",
            "one that this package exported",
            _EXPORT,
        )
    return ModelSpec.from_json(text)


def fp32_spec(model: onnx.ModelProto) -> ModelSpec:
    """`checked_spec` of a graph with logits that is still in FP32; OnnxFileError otherwise."""
    spec = checked_spec(model)
    if spec.precision != "fp32":
        raise OnnxFileError(
            f"a graph that is already in {spec.precision}",
            "the FP32 graph: a precision is written into that one",
            "name the file that segdeploy export wrote",
        )
    return spec


def write_spec(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Replace the ModelSpec in the metadata of `model`."""
    _write(model, METADATA_KEY, spec.to_json())


def write_precision(model: onnx.ModelProto, details: dict[str, Any]) -> None:
    """Say in the metadata what was cast or quantised, what was not, and why."""
    _write(model, PRECISION_KEY, json.dumps(details, sort_keys=True))


def precision_of(model: onnx.ModelProto) -> dict[str, Any]:
    """What `write_precision` wrote; empty where it wrote nothing."""
    text = _entry(model, PRECISION_KEY)
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def values_of_type(model: onnx.ModelProto, *kinds: int) -> list[str]:
    """What nodes write in one of the element types `kinds`, in the order they run."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return [name for node in model.graph.node for name in node.output if types.get(name) in kinds]


def _entry(model: onnx.ModelProto, key: str) -> str | None:
    return next((entry.value for entry in model.metadata_props if entry.key == key), None)


def _write(model: onnx.ModelProto, key: str, text: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = text
            return
    model.metadata_props.add(key=key, value=text)
