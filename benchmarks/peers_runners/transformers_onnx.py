"""Peer: transformers exported to ONNX, run by ONNX Runtime, as optimum-onnx does.

The same image processor and the same post-processing as in PyTorch; only the network moves.
Arrays pass between NumPy and PyTorch without a copy.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from peers_runners import hugging_face
from peers_runners.child import Job, serve


def cpu_session(path: str, threads: int) -> Any:
    """ONNX Runtime's defaults (arena, spinning, all optimisations); only the threads are set."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TransformersOnnx:
    def __init__(self, job: Job) -> None:
        import torch

        hugging_face.use_threads(job.threads)
        self._tensor = torch.from_numpy
        self._processor = hugging_face.image_processor(job.weights)
        self._session = cpu_session(str(job.onnx), job.threads)
        self._frame = hugging_face.load_frame(job)
        self._size = (self._frame.shape[0], self._frame.shape[1])
        self.versions = hugging_face.versions(
            "transformers", "torch", "onnxruntime", "pillow", "numpy"
        )
        self.note = "free height and width, all graph optimisations, default arena and spinning"

    def segment(self) -> tuple[Any, dict[str, float]]:
        begin = perf_counter()
        pixels = self._processor(images=self._frame, return_tensors="np")["pixel_values"]
        prepared = perf_counter()
        (logits,) = self._session.run(["logits"], {"pixel_values": pixels})
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
        return self._session.run(["logits"], {"pixel_values": pixels})[0][0]


if __name__ == "__main__":
    serve(TransformersOnnx)
