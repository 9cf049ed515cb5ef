"""ONNX Runtime's own static quantisation, with its defaults.

The preset ``default`` leaves it all operator types that it can quantise; ``products`` names
those in which the arithmetic lies.
"""

from __future__ import annotations

from typing import Any

from int8_runners.child import Job, serve, versions_of
from int8_runners.reader import FrameReader

PRODUCTS = ["Conv", "MatMul", "Gemm"]


def quantise(job: Job, reader: FrameReader) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # The defaults of onnxruntime 1.32, written out so that the results can state them.
    settings: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "calibrate_method": CalibrationMethod.MinMax,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": False,
        "reduce_range": False,
        "op_types_to_quantize": PRODUCTS if job.preset == "products" else None,
    }
    quantize_static(str(job.model), str(job.output), reader, **settings)
    return {
        "versions": versions_of("onnxruntime", "onnx", "numpy"),
        "settings": {
            name: value.name if hasattr(value, "name") else value
            for name, value in settings.items()
        },
        "notes": [],
    }


if __name__ == "__main__":
    serve(quantise)
