"""Golden frames: a few pictures whose class maps travel with an engine.

Wrong engines load and run like right ones (TensorRT issues #4723, #4748, #4813), so each
device segments these frames once, at first load, and compares.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.session import Array
from segformer_deploy.errors import EngineFolderError, OutputError, VerificationError
from segformer_deploy.files import user_cache, write_text
from segformer_deploy.runtime.plain_png import picture_from_png, png_from_picture
from segformer_deploy.spec import FrameSize, Precision

Frame = npt.NDArray[np.uint8]
Segment = Callable[[Frame], Array]

GOLDEN_COUNT = 2
_STRIP = 64
MIN_AGREEMENT: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.98, "int8": 0.97}
"""Between machines FP32 rounds differently in the last bits: only near-ties may flip. FP16 and
INT8 are rounded to a coarser grid, and what falls the other way there moves more of them."""


def golden_frame(size: FrameSize, seed: int) -> Frame:
    """A street-like picture, uint8 BGR `[H, W, 3]`, the same on every machine for one seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    height, width = size.height, size.width
    horizon = int(height * rng.uniform(0.35, 0.5))
    frame = np.empty((height, width, 3), np.uint8)
    frame[:horizon] = np.linspace(225, 170, horizon)[:, None, None].astype(np.uint8)
    frame[horizon:] = (90, 92, 95)
    for _ in range(14):
        left, top = rng.integers(0, width), rng.integers(0, height)
        box = int(rng.integers(8, max(9, width // 5))), int(rng.integers(8, max(9, height // 4)))
        colour = rng.integers(0, 256, 3)
        frame[top : top + box[1], left : left + box[0]] = colour
    for row in range(0, height, _STRIP):  # a 4K frame's noise at once would take 600 MB
        strip = frame[row : row + _STRIP]
        noise = rng.integers(-12, 13, strip.shape, np.int16)
        strip[...] = np.clip(strip + noise, 0, 255)
    return frame


def write_picture(path: Path, picture: Array) -> None:
    """Write a frame, or a class map as 8 or 16-bit indices, as PNG."""
    pixels = picture.astype(np.uint16) if picture.dtype == np.int32 else picture
    path.write_bytes(png_from_picture(pixels))


def read_picture(path: Path) -> Array:
    """Read a frame or class map in its own depth; what `write_picture` wrote without OpenCV."""
    data = path.read_bytes()
    picture = picture_from_png(data)
    if picture is None:
        import cv2  # of folders that were built before we wrote PNG ourselves; 15 MB

        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise EngineFolderError(f"{path} is not a picture", "a PNG", "build the engine again")
    return np.asarray(picture)


def check_golden(folder: Path, manifest: Manifest, segment: Segment) -> float:
    """The smallest agreement over the golden frames; VerificationError where it is too small."""
    worst = 1.0
    for frame_name, map_name in manifest.golden:
        expected = read_picture(folder / map_name)
        answer = segment(read_picture(folder / frame_name))
        if answer.shape != expected.shape:
            raise EngineFolderError(
                f"{folder / map_name} is {expected.shape[0]}x{expected.shape[1]}, its frame is not",
                "a class map of the frame's size",
                "build the engine again",
            )
        agreement = float(np.mean(answer == expected))
        worst = min(worst, agreement)
        if agreement < manifest.min_agreement:
            raise VerificationError(
                f"{folder} gives wrong masks on this device: {100 * agreement:.2f} % of the pixels "
                f"of {frame_name} agree with the class map made at build time",
                f"at least {100 * manifest.min_agreement:.1f} %",
                "build it on this device from the ONNX in the folder: segdeploy build-engine",
            )
    return worst


def _mark(key: str) -> Path | None:
    """The file that says a check was made, or None where this user has no home to keep it in."""
    root = user_cache()
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return None if root is None else root / "verified" / name


def _is_marked(mark: Path | None) -> bool:
    try:
        return mark is not None and mark.is_file()
    except OSError:
        return False


def check_golden_once(
    folder: Path, manifest: Manifest, engine_name: str, segment: Segment
) -> float | None:
    """`check_golden` at the first load on this machine; None where it was done before.

    The engine folder itself is never written to: the result lies in the user's cache.
    """
    key = "|".join((manifest.seal, engine_name, platform.node(), platform.machine()))
    mark = _mark(key)
    if _is_marked(mark):
        return None
    agreement = check_golden(folder, manifest, segment)
    # Without a cache (read-only home) the check is simply made at every load.
    with suppress(OutputError):
        if mark is not None:
            write_text(mark, json.dumps({"engine": engine_name, "agreement": agreement}) + "\n")
    return agreement
