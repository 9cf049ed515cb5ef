"""Peer: transformers in PyTorch: image processor -> model -> post_process_semantic_segmentation."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from peers_runners import hugging_face
from peers_runners.child import Job, serve


class TransformersEager:
    """The published way of use, in inference mode; also the reference of the comparison."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import SegformerForSemanticSegmentation

        hugging_face.use_threads(job.threads)
        self._inference_mode = torch.inference_mode
        self._processor = hugging_face.image_processor(job.weights)
        self._model = SegformerForSemanticSegmentation.from_pretrained(str(job.weights)).eval()
        self._frame = hugging_face.load_frame(job)
        self._size = (self._frame.shape[0], self._frame.shape[1])
        self.versions = hugging_face.versions("transformers", "torch", "pillow", "numpy")
        self.note = (
            f"{type(self._processor).__name__}, attention {self._model.config._attn_implementation}"
        )

    def segment(self) -> tuple[Any, dict[str, float]]:
        with self._inference_mode():
            begin = perf_counter()
            inputs = self._processor(images=self._frame, return_tensors="pt")
            prepared = perf_counter()
            outputs = self._model(**inputs)
            inferred = perf_counter()
            class_map = self._processor.post_process_semantic_segmentation(
                outputs, target_sizes=[self._size]
            )[0].numpy()
            end = perf_counter()
        return class_map, {
            "preprocess": (prepared - begin) * 1e3,
            "infer": (inferred - prepared) * 1e3,
            "class_map": (end - inferred) * 1e3,
        }

    def logits(self) -> Any:
        with self._inference_mode():
            inputs = self._processor(images=self._frame, return_tensors="pt")
            return self._model(**inputs).logits[0].numpy()


if __name__ == "__main__":
    serve(TransformersEager)
