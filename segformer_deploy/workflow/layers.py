"""Where two graphs of one network part: the error of every value, in the order they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from segformer_deploy.calibrate.observe import Observer
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.package import check_folder
from segformer_deploy.errors import InputError
from segformer_deploy.graph.metadata import checked_spec, precision_of, values_of_type
from segformer_deploy.graph.products import LAYOUT
from segformer_deploy.graph.round_fp16 import round_fp16
from segformer_deploy.spec import FrameSize

_PASSING = (*LAYOUT, "QuantizeLinear", "DequantizeLinear")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerError:
    """How far one value of B is from A's.

    Attributes:
        error: root mean square of the difference over that of A's value.
        added: by how much that is more than the largest error among the values it is made from;
            a jump marks the place where the graphs part.
        largest: magnitude of the difference, in the value's own units.
    """

    name: str
    op: str
    error: float
    added: float
    largest: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_layers(
    a: Path, b: Path, images: Iterable[Image], on_image: Callable[[int], None] | None = None
) -> tuple[LayerError, ...]:
    """Run both as they are written on `images` (uint8 RGB `[h, w, 3]` at network size).

    Values that only one has (Q/DQ and casts) are left out, and so are norms whose channels B
    scales: what they feed is compared instead.

    Raises InputError where the two have no value in common, OnnxFileError where one is no graph
    of ours.
    """
    graphs = [_graph(path) for path in (a, b)]
    names = _common(graphs[0], graphs[1])
    if not names:
        raise InputError(
            f"{a} and {b} have no value in common",
            "two graphs of one network: fp32, fp16 or int8 of the same export",
        )
    sums = {name: _Sums() for name in names}
    observers: list[Observer] = []
    for number, image in enumerate(images, 1):
        if not observers:
            size = FrameSize(*image.shape[:2])
            observers = [Observer(round_fp16(graph), names, size) for graph in graphs]
        for (name, first), (_, second) in zip(
            observers[0](image), observers[1](image), strict=True
        ):
            if first.shape != second.shape:
                raise InputError(
                    f"'{name}' is {list(first.shape)} in {a} and {list(second.shape)} in {b}",
                    "two graphs of one network: fp32, fp16 or int8 of the same export",
                )
            sums[name].add(first, second)
        if on_image is not None:
            on_image(number)
    return _errors(graphs[0], sums)


def _graph(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        path = path / check_folder(path).engine_files[0]
    spec_from_onnx(path)  # says what is wrong with a file that is none of ours
    model = onnx.load(path)
    checked_spec(model)
    return model


def _common(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """Float values of both, in A's order."""
    # Named by either; where both scale one, their factors need not be the same.
    scaled = {norm for model in (a, b) for norm in precision_of(model).get("equalised", [])}
    gains = [_gains(model, scaled) for model in (a, b)]
    skipped = {norm for norm in scaled if gains[0].get(norm) != gains[1].get(norm)}
    for node in a.graph.node:  # in order, so layout of layout is met after it
        if node.op_type in _PASSING and node.input[0] in skipped:
            skipped.update(node.output)
    floats = values_of_type(a, *_FLOATS), set(values_of_type(b, *_FLOATS))
    return [name for name in floats[0] if name in floats[1] and name not in skipped]


def _gains(model: onnx.ModelProto, norms: set[str]) -> dict[str, bytes]:
    """The scale of each of `norms`, in FP16, which both graphs can hold."""
    tensors = {tensor.name.removesuffix(".fp16"): tensor for tensor in model.graph.initializer}
    return {
        node.output[0]: numpy_helper.to_array(tensors[node.input[1].removesuffix(".fp16")])
        .astype(np.float16)
        .tobytes()
        for node in model.graph.node
        if node.output[0] in norms
    }


class _Sums:
    def __init__(self) -> None:
        self.lost = self.power = self.largest = 0.0

    def add(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
        difference = (b - a).reshape(-1)
        self.lost += float(np.dot(difference, difference))
        self.power += float(np.dot(a.reshape(-1), a.reshape(-1)))
        self.largest = max(self.largest, float(np.abs(difference).max()))

    @property
    def error(self) -> float:
        return float(np.sqrt(self.lost / self.power)) if self.power else 0.0


def _errors(model: onnx.ModelProto, sums: dict[str, _Sums]) -> tuple[LayerError, ...]:
    # The error that reaches a value through nodes that are not compared themselves.
    reaching: dict[str, float] = {}
    found = []
    for node in model.graph.node:
        before = max((reaching.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            seen = sums.get(name)
            reaching[name] = before if seen is None else seen.error
            if seen is not None:
                found.append(
                    LayerError(name, node.op_type, seen.error, seen.error - before, seen.largest)
                )
    return tuple(found)
