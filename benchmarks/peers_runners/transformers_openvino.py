"""Peer: the same ONNX file in OpenVINO, FP32, with transformers' pre- and post-processing.

The height and width are fixed before compiling, as OpenVINO's guide advises: it is faster so.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from peers_runners import hugging_face
from peers_runners.child import Job, serve


class TransformersOpenVino:
    def __init__(self, job: Job) -> None:
        import openvino
        import torch

        hugging_face.use_threads(job.threads)
        self._tensor = torch.from_numpy
        self._processor = hugging_face.image_processor(job.weights)
        core = openvino.Core()
        model = core.read_model(str(job.onnx))
        model.reshape([1, 3, *job.network])
        # FP32 outright: on processors with BF16 OpenVINO would round the network otherwise.
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": job.threads,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self._request = compiled.create_infer_request()
        self._frame = hugging_face.load_frame(job)
        self._size = (self._frame.shape[0], self._frame.shape[1])
        self.versions = hugging_face.versions(
            "transformers", "torch", "openvino", "pillow", "numpy"
        )
        self.note = "fixed height and width, FP32, latency hint"

    def _infer(self, pixels: Any) -> Any:
        # Both sides without a copy: the request's own memory is valid until its next run.
        self._request.infer([pixels], share_inputs=True, share_outputs=True)
        return self._request.get_output_tensor(0).data

    def segment(self) -> tuple[Any, dict[str, float]]:
        begin = perf_counter()
        pixels = self._processor(images=self._frame, return_tensors="np")["pixel_values"]
        prepared = perf_counter()
        logits = self._infer(pixels)
        inferred = perf_counter()
        class_map = hugging_face.class_map_of(
            self._processor, self._tensor(logits), self._size
        ).numpy()
        end = perf_counter()
        return class_map, {
            "preprocess": (prepared - begin) * 1e3,
            "infer": (inferred - prepared) * 1e3,
            "class_map": (end - inferred) * 1e3,
        }

    def logits(self) -> Any:
        pixels = self._processor(images=self._frame, return_tensors="np")["pixel_values"]
        return self._infer(pixels)[0].copy()


if __name__ == "__main__":
    serve(TransformersOpenVino)
