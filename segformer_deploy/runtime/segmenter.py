"""Frame in, class map out: the one object most users need.

::

    with Segmenter("build/segformer-b0-fp32") as segment:
        class_map = segment(frame)          # frame: BGR uint8, as OpenCV gives it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, cast, overload

from segformer_deploy.engine.backend import AUTO, EngineOptions
from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.package import load_engine
from segformer_deploy.engine.session import Array, DeviceEngine, Engine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import SpecError
from segformer_deploy.runtime.batch import (
    Confidence,
    Frame,
    frames_of,
    one_network_size,
    size_of,
)
from segformer_deploy.runtime.closing import close_all
from segformer_deploy.runtime.device_choice import check_device, choose_device, choose_for_tiles
from segformer_deploy.runtime.device_frame import is_foreign
from segformer_deploy.runtime.device_kernels import Format
from segformer_deploy.runtime.device_segment import DeviceSegment, frame_size
from segformer_deploy.runtime.golden import check_golden_once
from segformer_deploy.runtime.host_segment import Answer, HostSegment
from segformer_deploy.runtime.in_flight import stream_on_gpu
from segformer_deploy.runtime.pipeline import Options
from segformer_deploy.runtime.preprocess import PixelFormat, checked_size
from segformer_deploy.runtime.tiled_segment import TiledSegment
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule

__all__ = ["Confidence", "Frame", "Segmenter", "Tiling"]


class Segmenter:
    """Segments frames with an engine; one thread at a time; a context manager.

    Args:
        engine: an engine folder, an ONNX file of ours, or a loaded Engine (then give `spec`).
        spec: of a loaded Engine; from the folder or file otherwise.
        size: network size to use instead of the model's own resize rule.
        pixel_format: of the frames: ``bgr``, ``rgb``, or on a GPU ``nv12``, as decoders give it.
        threads: for the network and for our own kernels; None takes all cores of this process.
        backend: ``native``, ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx``, or ``auto``: what
            the folder was built for; of an ONNX file native, where it can run it, else
            onnxruntime (`note` says why).
        provider: ONNX Runtime's, ``cpu``, ``cuda`` or ``tensorrt``; ``auto``: cuda where it
            starts (`note` says why not), else as with ``cpu``.
        arena: ONNX Runtime's memory arena: a little faster, noticeably larger.
        trust: load a plan file that has no manifest: compiled code, of which nothing is known.
        device: where frames are resized and class maps made: ``cuda`` (only the map comes back),
            ``cpu``, or ``auto``: cuda wherever the network runs there and it can (`device_how`
            says what was chosen and why), else cpu.
        timed: on a GPU, time each stage there; CUDA graphs are not used then.
        tiling: overlapping windows instead of the whole picture, one at a time; None: whole;
            ``auto``: what the folder was built for. Sizes that the engine takes are then those of
            a window. Frames go the CPU's way in and out, wherever the network runs.

    Raises:
        SegdeployError: where the engine does not load, or gives wrong masks on this device.
    """

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        spec: ModelSpec | None = None,
        size: FrameSize | None = None,
        pixel_format: Format = "bgr",
        threads: int | None = None,
        backend: str = AUTO,
        provider: str = "cpu",
        arena: bool = True,
        trust: bool = False,
        device: str = "auto",
        timed: bool = False,
        tiling: Tiling | Literal["auto"] | None = "auto",
    ) -> None:
        check_device(device)
        self.threads = threads or usable_cores()
        self._owned: Engine | None = None
        self._manifest: Manifest | None = None
        self._source: Path | None = None
        self.note: str | None = None
        if isinstance(engine, (str, Path)):
            options = EngineOptions(backend, provider, self.threads, arena, trust)
            loaded = load_engine(Path(engine), options)
            self._owned, self._manifest = loaded.engine, loaded.manifest
            self._source, self.note = loaded.path, loaded.note
            engine, spec = loaded.engine, spec or loaded.spec
        elif spec is None:
            raise SpecError("an Engine without a ModelSpec", "Segmenter(engine, spec=...)")
        self.spec = spec
        self.engine_name = engine.name
        self.pixel_format: Format = pixel_format
        self.last_stages_ms: dict[str, float] = {}
        self._resize = spec.resize
        self._engine, self._timed = engine, timed
        built_for = None if self._manifest is None else self._manifest.tiling
        own = None if built_for is None else built_for.tiling
        asked = own if tiling == "auto" else tiling
        # Golden frames were segmented as the folder was built.
        self.tiling = asked if self._manifest is None else own
        self._gpu: DeviceSegment | None = None
        self._cpu: HostSegment | TiledSegment | None = None
        try:
            self._choose_device(device)
            if self._manifest is not None:
                self._check_on_device(loaded.path, self._manifest)
            if size is not None:
                self._resize = ResizeRule.stretch_to(size, spec.resize.filter)
            if size is not None or asked != self.tiling:
                self._give_back_ways(keep_cpu=asked == self.tiling)
                self.tiling = asked
                # The GPU's way is made for one rule, the CPU's for one tiling.
                self._choose_device(device)
        except BaseException:
            self.close()
            raise

    def _give_back_ways(self, *, keep_cpu: bool) -> None:
        ways = (self._gpu, None if keep_cpu else self._cpu)
        self._gpu, self._cpu = None, self._cpu if keep_cpu else None
        close_all(one for one in ways if one is not None)

    def _choose_device(self, device: str) -> None:
        """Open the GPU's way in and out, or a session for the CPU's."""
        if self.tiling is None:
            chosen = choose_device(device, self._engine, self._opened_gpu, self._onnx)
            self._gpu, self._how = chosen.gpu, chosen.how
        else:
            self._how = choose_for_tiles(device, self._engine)
        if self._gpu is None and self._cpu is None:
            self._cpu = self._opened_cpu()

    def _opened_cpu(self) -> HostSegment | TiledSegment:
        session = self._engine.session()
        if self.tiling is None:
            return HostSegment(session, self.spec, self.threads)
        return TiledSegment(session, self.spec, self.threads, self.tiling, self._allowed)

    def _opened_gpu(self, engine: DeviceEngine) -> DeviceSegment:
        options = Options(graphs=engine.graphs, timed=self._timed)
        return DeviceSegment(engine, self.spec, self._resize, options)

    @property
    def _onnx(self) -> Path | None:
        """The ONNX file that the engine was loaded from."""
        if self._source is None or self._manifest is None:
            return self._source
        return self._source / self._manifest.engine_files[0]

    @property
    def device(self) -> str:
        """Where frames are resized and class maps made: ``cpu`` or ``cuda``."""
        return "cpu" if self._gpu is None else "cuda"

    @property
    def device_how(self) -> str:
        """Why there, in a sentence; on a GPU, which image of our kernels runs."""
        return self._how

    def _check_on_device(self, folder: Path, manifest: Manifest) -> None:
        """Golden frames lie in the folder as BGR pictures, whatever the caller's format is."""
        asked, self.pixel_format = self.pixel_format, "bgr"
        # The GPU's way in and out is checked apart from the CPU's.
        name = f"{self.engine_name}, {self.device}"
        self.first_load_agreement = check_golden_once(folder, manifest, name, self)
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
        foreign = self._gpu is not None and is_foreign(frame)
        frames, single = frames_of(frame, on_device=foreign)
        if not frames:
            return []
        answers = self._segmented(frames, confidence)
        return answers[0] if single else answers

    def _segmented(self, frames: Sequence[Frame], confidence: bool) -> list[Answer]:
        if self._gpu is not None:
            self._check_for_gpu(frames)
            found = self._gpu(frames, self.pixel_format, confidence=confidence)
            self.last_stages_ms = self._gpu.last_stages_ms
            return [
                (map_, cast("Confidence", sure)) if confidence else map_ for map_, sure in found
            ]
        assert self._cpu is not None
        network = self._one_network_size([size_of(frame) for frame in frames])
        answers = self._cpu(
            frames,
            network,
            self._resize,
            cast("PixelFormat", self.pixel_format),
            confidence=confidence,
        )
        self.last_stages_ms = self._cpu.last_stages_ms
        return answers

    def _check_for_gpu(self, frames: Sequence[Frame]) -> None:
        """FrameError where a frame cannot be segmented; those on the device check themselves."""
        here = [frame for frame in frames if not is_foreign(frame)]
        for frame in here:
            checked_size(frame_size(frame, self.pixel_format))
        if here:
            self._one_network_size([frame_size(frame, self.pixel_format) for frame in here])

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Array]]:
        """(frame, class map) of each frame, in order; on a GPU several are under way at once."""
        if self._gpu is None:
            for frame in frames:
                yield frame, self(frame)
            return
        check = self._check_for_gpu
        yield from stream_on_gpu(self._gpu, frames, self.pixel_format, lambda one: check([one]))

    @property
    def _allowed(self) -> SizeRange | None:
        """The sizes that the engine takes: of pictures, or with a tiling of its windows."""
        return None if self._manifest is None else self._manifest.sizes

    def _one_network_size(self, frames: Sequence[FrameSize]) -> FrameSize:
        # Of windows each size is checked where they are cut.
        allowed = self._allowed if self.tiling is None else None
        return one_network_size(frames, self._resize, allowed)

    def close(self) -> None:
        """Give back the session, and the engine where this object loaded it; safe twice."""
        close_all(one for one in (self._gpu, self._cpu, self._owned) if one is not None)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
