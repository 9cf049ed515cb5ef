"""Counts of a graph, from its shapes alone. Nothing is run, so every machine counts the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx

from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.macs import (
    activation_memory,
    count_macs,
    data_movement,
    node_counts,
)
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer, SegformerConfig, config_for
from segformer_deploy.spec import FrameSize
from tests.model.tiny import TINY, spec_for

CONFIGS: Mapping[str, SegformerConfig] = {
    "tiny": TINY,
    "b0-150": config_for("b0", 150),
    # The variants from B2 on have a wider decode head and other depths than B0 and B1.
    "b2-150": config_for("b2", 150),
}
CLASS_MAP = "-class-map"
"""Ends the name of a graph that holds the class map too."""
GRAPHS = ("tiny", "b0-150", "b2-150", "b0-150" + CLASS_MAP)
SIZES = (FrameSize(512, 512), FrameSize(512, 1024))
"""Multiply-accumulates are counted at both, bytes at the first."""


@dataclass
class Counts:
    """The counts of one case.

    Attributes:
        values: by name, as ``nodes.Transpose``.
        notes: more about some of them, for a message: where the peak is, who allocates.
    """

    values: dict[str, int]
    notes: dict[str, str] = field(default_factory=dict)


def exported(name: str) -> onnx.ModelProto:
    """The graph of one of `GRAPHS`; its weights are PyTorch's initial ones, random."""
    base = name.removesuffix(CLASS_MAP)
    config = CONFIGS[base]
    spec = spec_for(config, base.partition("-")[0] if base != "tiny" else "custom")
    graph = onnx_from_model(Segformer(config), spec)
    return append_class_map(graph) if name.endswith(CLASS_MAP) else graph


def count_graph(model: onnx.ModelProto) -> Counts:
    """Nodes, multiply-accumulates and bytes of a graph; nothing is run."""
    nodes = dict(sorted(node_counts(model).items()))
    memory = activation_memory(model, SIZES[0])
    moved = {kind: asdict(one) for kind, one in data_movement(model, SIZES[0]).items()}
    moved["all"] = {key: sum(one[key] for one in moved.values()) for key in ("nodes", "bytes")}
    values = {
        "nodes": {"all": sum(nodes.values()), **nodes},
        "macs": {str(size): count_macs(model, size) for size in SIZES},
        "bytes": {
            "file": file_bytes(model),
            "initializers": initializer_bytes(model),
            "activations": memory.total,
            "peak_live": memory.peak,
        },
        "movement": moved,
    }
    return Counts(dict(flat(values)), {"bytes.peak_live": f"at {memory.peak_node}"})


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """``{"nodes": {"Add": 2}}`` -> ``nodes.Add``, 2."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def file_bytes(model: onnx.ModelProto) -> int:
    """Of the ONNX file without its labels, which cost nothing to run and name versions."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for label in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        bare.ClearField(label)
    bare.graph.ClearField("doc_string")
    return int(bare.ByteSize())


def initializer_bytes(model: onnx.ModelProto) -> int:
    return sum(onnx.numpy_helper.to_array(one).nbytes for one in model.graph.initializer)
