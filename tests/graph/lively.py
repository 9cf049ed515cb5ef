"""A small exported network in which every weight matters, and looking inside graphs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from segformer_deploy.graph.insert_qdq import quantised_values
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer
from tests.model.checkpoint_builders import randomise
from tests.model.tiny import TINY, random_frames, spec_for

Array = npt.NDArray[Any]


@cache
def _bytes_of_lively(seed: int) -> bytes:
    network = randomise(Segformer(TINY), seed)
    model = onnx_from_model(network, spec_for(TINY))
    # Each class gets its share of the pixels, so that class maps can differ.
    logits = logits_of(model, random_frames(2, 64, 96))
    add_to_weight(model, "decoder.classifier.bias", -np.median(logits, axis=(0, 2, 3)))
    return bytes(model.SerializeToString())


def lively_model(seed: int = 1) -> onnx.ModelProto:
    """The FP32 graph of a network without gains of 1 and biases of 0; a fresh copy each time."""
    return onnx.ModelProto.FromString(_bytes_of_lively(seed))


def session(model: onnx.ModelProto, *, literal: bool = False) -> Any:
    """ONNX Runtime on one thread; `literal` runs the nodes as they stand, none fused."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def logits_of(
    model: onnx.ModelProto, frames: npt.NDArray[np.uint8], *, literal: bool = False
) -> Array:
    return np.asarray(session(model, literal=literal).run(["logits"], {"image": frames})[0])


def values_of(
    model: onnx.ModelProto,
    names: Iterable[str],
    frames: npt.NDArray[np.uint8],
    *,
    literal: bool = False,
) -> dict[str, Array]:
    """What the values `names` inside `model` are."""
    wanted = list(names)
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    found = session(watched, literal=literal).run(wanted, {"image": frames})
    return dict(zip(wanted, found, strict=True))


@cache
def _ranges(seed: int) -> dict[str, float]:
    model = lively_model(seed)
    found = values_of(model, quantised_values(model), random_frames(2, 96, 128, seed=7))
    return {name: float(np.abs(value).max()) for name, value in found.items()}


def lively_ranges(seed: int = 1) -> dict[str, float]:
    """A range for every value that any recipe may quantise."""
    return dict(_ranges(seed))


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def set_weight(model: onnx.ModelProto, name: str, values: Array) -> None:
    """Replace an initializer in place."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def scale_weight(model: onnx.ModelProto, name: str, factor: float | Array) -> None:
    set_weight(model, name, weights_of(model)[name].astype(np.float64) * factor)


def add_to_weight(model: onnx.ModelProto, name: str, term: float | Array) -> None:
    set_weight(model, name, weights_of(model)[name].astype(np.float64) + term)
