"""The names on the wire: what the front model takes and gives, where its description lies.

All tensors have a batch dimension first (1 to the configuration's `max_batch_size`). A request
brings `frame` or `encoded`, one of the two:

=============  =====  ==============  ==========================================================
`frame`        UINT8  [B, H, W, 3]    pixels, BGR unless the request says ``pixel_format: rgb``
`encoded`      UINT8  [B, N]          the bytes of a JPEG or PNG file; pictures of one size
`class_map`    UINT8  [B, H, W]       the answer, at the frame's own size; INT32 above 256 classes
=============  =====  ==============  ==========================================================

`encoded` is not of Triton's type BYTES: its Python backend cannot read that one under NumPy 2 (see
`dlpack`).
"""

from __future__ import annotations

from segformer_deploy.spec import ModelSpec

FRAME = "frame"
ENCODED = "encoded"
CLASS_MAP = "class_map"
PIXEL_FORMAT = "pixel_format"
"""A request's parameter: ``bgr`` (if not given) or ``rgb``, of the input `frame`."""

SPEC_PARAMETER = "segdeploy"
"""The configuration's parameter that holds the ModelSpec as JSON."""
ENGINE_PARAMETER = "segdeploy_engine"
"""The configuration's parameter with what is known of the engine, as JSON."""

ENGINE_FOLDER = "engine"
NETWORK_ENDING = "-network"
LARGEST_UINT8_CLASSES = 256


def class_map_type(spec: ModelSpec) -> str:
    """NumPy's name of the class map's type: ``uint8`` up to 256 classes, ``int32`` above."""
    return "uint8" if spec.classes <= LARGEST_UINT8_CLASSES else "int32"
