"""A network that Triton runs as a model of its own, as one of our engines.

Triton calls it business logic scripting: a Python model sends requests to other models of the
same server. Several front models then share one network, whose batches the server makes. While the
server starts it answers none of them: nothing is asked of the network before the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Shape,
    TensorInfo,
    checked_image,
    network_output_shapes,
)
from segformer_deploy.errors import RunError
from segformer_deploy.serve.dlpack import Lent, array_of
from segformer_deploy.serve.names import class_map_type
from segformer_deploy.spec import ModelSpec


class BlsEngine:
    """An `Engine` over another model of the server.

    Args:
        pb: the server's module `triton_python_backend_utils`.
        model: the network's name there.
        spec: of the model: what the network answers.
        version: of the network: the one that was packaged with this front, never the newest, whose
            weights are others.
    """

    def __init__(self, pb: Any, model: str, spec: ModelSpec, version: int) -> None:
        self.pb, self.model, self.version = pb, model, version
        self.name = f"the model '{model}' version {version} of this Triton server"
        self.inputs = (TensorInfo("image", "uint8", (None, None, None, 3)),)
        if spec.output == "class_map":
            output = TensorInfo("class_map", class_map_type(spec), (None, None, None))
        else:
            output = TensorInfo("logits", "float32", (None, spec.classes, None, None))
        self.outputs = (output,)

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> BlsSession:
        return BlsSession(self)

    def close(self) -> None:
        """Nothing to give back: the server owns the network."""


class BlsSession:
    """A `Session` that asks the server; the answer is an array of its own for each run."""

    def __init__(self, engine: BlsEngine) -> None:
        self._engine = engine

    def run(self, arrays: Arrays) -> dict[str, Array]:
        engine, pb = self._engine, self._engine.pb
        image = checked_image(arrays)
        output = engine.outputs[0]
        request = pb.InferenceRequest(
            model_name=engine.model,
            model_version=engine.version,
            requested_output_names=[output.name],
            inputs=[pb.Tensor.from_dlpack("image", Lent(image))],
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU, 0),
        )
        answer = request.exec()
        if answer.has_error():
            raise RunError(
                f"the network '{engine.model}' version {engine.version} failed: "
                f"{answer.error().message()}",
                f"its output '{output.name}'",
                "see the server's log, and whether that version is ready there; "
                f"segdeploy package --triton DIR --name MODEL --use {engine.version} has it loaded",
            )
        tensor = pb.get_output_tensor_by_name(answer, output.name)
        found = array_of(tensor)
        expected = engine.output_shapes({"image": image.shape})[output.name]
        if found.shape != expected or found.dtype != output.dtype:
            raise RunError(
                f"the network '{engine.model}' answered {found.dtype} {list(found.shape)}",
                f"{output.dtype} {list(expected)}",
                "package the engine again: segdeploy package ENGINE --triton DIR --network",
            )
        return {output.name: found}

    def close(self) -> None:
        """Nothing is held between runs."""
