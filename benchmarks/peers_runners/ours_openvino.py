"""The graph that segformer_deploy exports in OpenVINO, FP32, with our frame path around it.

It answers whether OpenVINO would make a faster backend than the ones that the package has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers_runners.child import Job, serve
from peers_runners.ours import Ours
from segformer_deploy.engine.onnx_file import read_onnx_header
from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Shape,
    checked_image,
    network_output_shapes,
)


class OpenVinoEngine:
    """`Engine` of segformer_deploy; height and width fixed before compiling: it is faster so."""

    def __init__(self, path: Path, job: Job) -> None:
        import openvino

        header = read_onnx_header(path)
        self.inputs, self.outputs = header.inputs, header.outputs
        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape([1, *job.network, 3])
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: Any = core.compile_model(model, "CPU", options)
        self.name = f"openvino {openvino.__version__}"

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> OpenVinoSession:
        return OpenVinoSession(self._compiled.create_infer_request())

    def close(self) -> None:
        self._compiled = None


class OpenVinoSession:
    """`Session` of segformer_deploy."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def run(self, arrays: Arrays) -> dict[str, Array]:
        self._request.infer([checked_image(arrays)], share_inputs=True, share_outputs=True)
        return {"logits": self._request.get_output_tensor(0).data}

    def close(self) -> None:
        self._request = None


def build(job: Job) -> Ours:
    return Ours(job, engine_of=OpenVinoEngine)


if __name__ == "__main__":
    serve(build)
