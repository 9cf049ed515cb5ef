"""What a Triton request brings: frames as they are, or pictures to be decoded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from segformer_deploy.engine.session import Array
from segformer_deploy.errors import FrameError, RunError, SegdeployError
from segformer_deploy.runtime.batch import Frame
from segformer_deploy.serve.dlpack import array_of
from segformer_deploy.serve.names import ENCODED, FRAME, PIXEL_FORMAT
from segformer_deploy.serve.together import Asked


def asked_of(pb: Any, request: Any) -> Asked | SegdeployError:
    """The frames of a request, or why it has none; nothing is raised.

    Args:
        pb: the server's module `triton_python_backend_utils`.
        request: its InferenceRequest.
    """
    try:
        return _read(pb, request)
    except SegdeployError as error:
        return error
    except Exception as error:  # a request that we do not understand is one request's trouble
        return RunError(
            f"the request does not read ({type(error).__name__}: {error})",
            f"an input '{FRAME}' or '{ENCODED}'",
        )


def _read(pb: Any, request: Any) -> Asked:
    frame = pb.get_input_tensor_by_name(request, FRAME)
    encoded = pb.get_input_tensor_by_name(request, ENCODED)
    if (frame is None) == (encoded is None):
        both = f"both '{FRAME}' and '{ENCODED}'"
        found = f"neither '{FRAME}' nor '{ENCODED}'" if frame is None else both
        raise FrameError(
            f"a request with {found}",
            f"one of the two: '{FRAME}' (UINT8 [B, height, width, 3]) or '{ENCODED}' (UINT8 [B, "
            "bytes], a JPEG or PNG file in each row)",
        )
    pixel_format = _pixel_format(request)
    if encoded is None:
        return Asked(list(_checked(array_of(frame))), pixel_format)
    if pixel_format != "bgr":
        raise FrameError(
            f"pixel format '{pixel_format}' of a picture in '{ENCODED}'",
            "none: the file says what it is",
            f"leave out the parameter '{PIXEL_FORMAT}'",
        )
    return Asked([_decoded(one) for one in array_of(encoded)])


def _checked(frames: Array) -> Array:
    # Triton holds requests against the configuration; that one may have been edited.
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise FrameError(
            f"'{FRAME}' of {frames.dtype} {list(frames.shape)}", "uint8 [B, height, width, 3]"
        )
    return frames


def _decoded(data: Array) -> Frame:
    from segformer_deploy.video.images import picture_from_bytes  # OpenCV, where it is needed

    return picture_from_bytes(data.tobytes(), f"the picture in '{ENCODED}'")


def _pixel_format(request: Any) -> str:
    """``bgr`` where the request says nothing."""
    text = request.parameters()
    parameters = json.loads(text) if text else {}
    return str(parameters.get(PIXEL_FORMAT, "bgr"))
