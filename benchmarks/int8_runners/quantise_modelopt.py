"""NVIDIA Model Optimizer's default INT8 of an ONNX file, calibrated on the CPU.

Runs in an environment of its own: it pins other versions of onnx and onnxruntime than ours.
"""

from __future__ import annotations

from typing import Any

from int8_runners.child import Job, serve, versions_of
from int8_runners.reader import FrameReader

_IN_FP16 = (
    "outside of Q/DQ the file is FP16 (ModelOpt's default): smaller, and computed in FP32 "
    "by ONNX Runtime's CPU provider"
)


def quantise(job: Job, reader: FrameReader) -> dict[str, Any]:
    """The preset is the precision of all that stays in floating point: ``fp16`` or ``fp32``."""
    from modelopt.onnx.quantization import quantize

    settings: dict[str, Any] = {
        "quantize_mode": "int8",
        "calibration_method": "entropy",
        "high_precision_dtype": job.preset,
        # Where it calibrates; its default list goes on with GPUs, which need not be there.
        "calibration_eps": ["cpu"],
    }
    quantize(
        str(job.model), calibration_data_reader=reader, output_path=str(job.output), **settings
    )
    packages = ("nvidia-modelopt", "onnxruntime-gpu", "onnxruntime", "onnx", "torch", "numpy")
    return {
        "versions": versions_of(*packages),
        "settings": settings,
        "notes": [_IN_FP16] if job.preset == "fp16" else [],
    }


if __name__ == "__main__":
    serve(quantise)
