"""Frame in, class map out: the one object most users need.

::

    with Segmenter("build/segformer-b0-fp32") as segment:
        class_map = segment(frame)          # frame: BGR uint8, as OpenCV gives it
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, cast, overload

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.backend import AUTO, EngineOptions
from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.package import load_engine
from segformer_deploy.engine.session import Array, Engine
from segformer_deploy.errors import FrameError, RunError, SpecError
from segformer_deploy.runtime.class_map import class_map_from_logits, confidence_from_logits
from segformer_deploy.runtime.golden import check_golden_once
from segformer_deploy.runtime.preprocess import PixelFormat, prepare
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule

Frame = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.float32]


class Segmenter:
    """Segments frames with an engine; one thread at a time; a context manager.

    Args:
        engine: an engine folder, an ONNX file of ours, or a loaded Engine (then give `spec`).
        spec: of a loaded Engine; from the folder or file otherwise.
        size: network size to use instead of the model's own resize rule.
        pixel_format: channel order of the frames, ``bgr`` or ``rgb``.
        threads: for the network and for our own kernels; None takes all cores of this process.
        backend: ``native``, ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx``, or ``auto``: what
            the folder was built for; of an ONNX file native, where it can run it, else
            onnxruntime (`note` says why).
        provider: ONNX Runtime's, ``cpu``, ``cuda`` or ``tensorrt``.
        arena: ONNX Runtime's memory arena: a little faster, noticeably larger.
        trust: load a plan file that has no manifest: compiled code, of which nothing is known.

    Raises:
        SegdeployError: where the engine does not load, or gives wrong masks on this device.
    """

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        spec: ModelSpec | None = None,
        size: FrameSize | None = None,
        pixel_format: PixelFormat = "bgr",
        threads: int | None = None,
        backend: str = AUTO,
        provider: str = "cpu",
        arena: bool = True,
        trust: bool = False,
    ) -> None:
        self.threads = threads or usable_cores()
        self._owned: Engine | None = None
        self._manifest: Manifest | None = None
        self.note: str | None = None
        if isinstance(engine, (str, Path)):
            options = EngineOptions(backend, provider, self.threads, arena, trust)
            loaded = load_engine(Path(engine), options)
            self._owned, self._manifest = loaded.engine, loaded.manifest
            self.note = loaded.note
            spec = spec or loaded.spec
            engine, folder = loaded.engine, loaded.path
        elif spec is None:
            raise SpecError("an Engine without a ModelSpec", "Segmenter(engine, spec=...)")
        self.spec = spec
        self.engine_name = engine.name
        self.pixel_format: PixelFormat = pixel_format
        self.last_stages_ms: dict[str, float] = {}
        self._input = np.empty((0, 0, 0, 3), np.uint8)
        self._resize = spec.resize
        try:
            self._session = engine.session()
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise
        if self._manifest is not None:
            self._check_on_device(folder, self._manifest)
        if size is not None:
            self._resize = ResizeRule.stretch_to(size, spec.resize.filter)

    def _check_on_device(self, folder: Path, manifest: Manifest) -> None:
        """Golden frames lie in the folder as BGR pictures, whatever the caller's format is."""
        asked, self.pixel_format = self.pixel_format, "bgr"
        try:
            self.first_load_agreement = check_golden_once(folder, manifest, self.engine_name, self)
        except BaseException:
            self.close()
            raise
        self.pixel_format = asked

    def network_size(self, frame: FrameSize) -> FrameSize:
        """The size at which the network sees a frame of size `frame`."""
        return self._resize.network_size(frame)

    @overload
    def __call__(self, frame: Frame, confidence: Literal[False] = False) -> Array: ...
    @overload
    def __call__(self, frame: Frame, confidence: Literal[True]) -> tuple[Array, Confidence]: ...
    @overload
    def __call__(
        self, frame: Sequence[Frame], confidence: Literal[False] = False
    ) -> list[Array]: ...
    @overload
    def __call__(
        self, frame: Sequence[Frame], confidence: Literal[True]
    ) -> list[tuple[Array, Confidence]]: ...
    def __call__(self, frame: Frame | Sequence[Frame], confidence: bool = False) -> object:
        """Class map of a frame, or of each frame of a list, which then runs as one batch.

        Args:
            frame: uint8 `[H, W, 3]`, at least 32x32, and 64x64 once resized by the model's
                rule. The frames of a list enter the network at one size, each may have its own.
            confidence: also give the winning class's softmax probability, float32 `[H, W]`.

        Returns:
            The class map `[H, W]` at the frame's own resolution, uint8 up to 256 classes, int32
            above; a list where a list was given. The arrays are the caller's to keep.
        """
        if not isinstance(frame, (np.ndarray, list, tuple)):
            raise FrameError(
                f"a frame of type {type(frame).__name__}",
                "a NumPy array, uint8 [height, width, 3], or a list of them",
                "check that the frame was read: cv2.imread gives None for a missing file",
            )
        single = isinstance(frame, np.ndarray) and frame.ndim != 4
        frames: list[Frame] = (
            [cast("Frame", frame)] if single else list(cast("Sequence[Frame]", frame))
        )
        if not frames:
            return []
        started = time.perf_counter()
        image = self._prepared(frames)
        prepared = time.perf_counter()
        output = self._session.run({"image": image})
        inferred = time.perf_counter()
        answers = [self._answer(output, index, one, confidence) for index, one in enumerate(frames)]
        done = time.perf_counter()
        self.last_stages_ms = {
            "preprocess": 1e3 * (prepared - started),
            "infer": 1e3 * (inferred - prepared),
            "class_map": 1e3 * (done - inferred),
        }
        return answers[0] if single else answers

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Array]]:
        """(frame, class map) of each frame, in order."""
        for frame in frames:
            yield frame, self(frame)

    def _prepared(self, frames: Sequence[Frame]) -> Frame:
        """The frames at network size in our input buffer, RGB `[B, h, w, 3]`."""
        sizes = {self._resize.network_size(_size(frame)) for frame in frames}
        if len(sizes) > 1:
            raise FrameError(
                "a list of frames that enter the network at different sizes: "
                + ", ".join(sorted(map(str, sizes))),
                "one network size per list",
                "call once per size, or give Segmenter a size",
            )
        (size,) = sizes
        if self._manifest is not None and self._manifest.sizes is not None:
            self._manifest.sizes.check(size, len(frames))
        shape = (len(frames), size.height, size.width, 3)
        if self._input.shape != shape:
            self._input = np.empty(shape, np.uint8)
        for index, frame in enumerate(frames):
            prepare(frame, self._resize, pixel_format=self.pixel_format, out=self._input[index])
        return self._input

    def _answer(
        self, output: dict[str, Array], index: int, frame: Frame, confidence: bool
    ) -> Array | tuple[Array, Confidence]:
        size = _size(frame)
        if self.spec.output == "class_map":
            return self._ready_class_map(output["class_map"][index], size, confidence)
        logits = output["logits"][index]
        class_map = class_map_from_logits(logits, size, threads=self.threads)
        if not confidence:
            return class_map
        return class_map, confidence_from_logits(logits, class_map, threads=self.threads)

    def _ready_class_map(self, class_map: Array, size: FrameSize, confidence: bool) -> Array:
        if confidence:
            raise RunError(
                "confidence was asked of a graph that gives class maps only",
                "a graph with logits",
                "segdeploy export without --class-map",
            )
        if class_map.shape != (size.height, size.width):
            # Enlarging a class map would give stair-steps: argmax comes last, at frame size.
            raise FrameError(
                f"the graph made its class map at {class_map.shape[0]}x{class_map.shape[1]}, "
                f"the frame has {size}",
                "frames of the network's size, since this graph holds the argmax",
                "segdeploy export without --class-map",
            )
        own: Array = class_map.copy()
        return own

    def close(self) -> None:
        """Give back the session, and the engine where this object loaded it; safe twice."""
        self._session.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _size(frame: Frame) -> FrameSize:
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or 0 in frame.shape:
        shape = getattr(frame, "shape", None)
        raise FrameError(
            f"a frame of type {type(frame).__name__}" + (f" and shape {shape}" if shape else ""),
            "a NumPy array, uint8 [height, width, 3]",
        )
    return FrameSize(frame.shape[0], frame.shape[1])
