"""segdeploy: SegFormer (B0 to B5) on a Jetson, a desktop GPU or a small CPU board.

A checkpoint becomes the exact deploy form, an ONNX file that holds everything that decides
the answer, an engine folder for one device, and then class maps::

    checkpoint -> SegFormer -> deploy form -> ONNX -> engine -> runtime -> video, bench

Left of *engine* lies the workstation side (torch, onnx); right of it the edge side, which
needs NumPy, OpenCV and one engine library. Importing this package loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segformer_deploy.errors import SegdeployError
from segformer_deploy.version import __version__

if TYPE_CHECKING:
    from segformer_deploy.runtime.segmenter import Segmenter

__all__ = ["SegdeployError", "Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `segdeploy --help` and the error classes cost no NumPy or OpenCV.
    if name == "Segmenter":
        from segformer_deploy.runtime.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
