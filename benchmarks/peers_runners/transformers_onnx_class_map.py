"""Peer: transformers exported to ONNX with resize and argmax in the graph, in ONNX Runtime.

Nothing but the image processor is left outside, so this process needs no PyTorch.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from peers_runners import hugging_face
from peers_runners.child import Job, serve
from peers_runners.transformers_onnx import cpu_session


class TransformersOnnxClassMap:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._processor = hugging_face.image_processor(job.weights)
        self._session = cpu_session(str(job.onnx_class_map), job.threads)
        self._frame = hugging_face.load_frame(job)
        self.versions = hugging_face.versions("transformers", "onnxruntime", "pillow", "numpy")
        self.note = "bilinear resize and argmax in the graph, at the frame's size"

    def segment(self) -> tuple[Any, dict[str, float]]:
        begin = perf_counter()
        pixels = self._processor(images=self._frame, return_tensors="np")["pixel_values"]
        prepared = perf_counter()
        (class_map,) = self._session.run(["class_map"], {"pixel_values": pixels})
        end = perf_counter()
        return class_map[0], {
            "preprocess": (prepared - begin) * 1e3,
            "infer": (end - prepared) * 1e3,
            "class_map": 0.0,
        }

    def logits(self) -> Any:
        # The graph hands out no logits; the graph it was made from does, on the same library.
        session = cpu_session(str(self._job.onnx), self._job.threads)
        pixels = self._processor(images=self._frame, return_tensors="np")["pixel_values"]
        return session.run(["logits"], {"pixel_values": pixels})[0][0]


if __name__ == "__main__":
    serve(TransformersOnnxClassMap)
