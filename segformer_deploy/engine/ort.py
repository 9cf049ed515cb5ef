"""ONNX Runtime as an engine on host arrays, by any of its providers; `ort_device` is the GPU's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx
from segformer_deploy.engine.ort_providers import (
    PROVIDERS,
    Wish,
    check_taken,
    checked_provider,
    not_started,
    provider_list,
)
from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Session,
    Shape,
    TensorInfo,
    checked_image,
    network_output_shapes,
)
from segformer_deploy.errors import (
    BackendError,
    MissingDependencyError,
    OnnxFileError,
    RunError,
    SegdeployError,
)
from segformer_deploy.files import user_cache

if TYPE_CHECKING:
    import onnxruntime

_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}
LEAN_KEY = "segdeploy.lean"
"""In the metadata of a graph that was cut to hold little memory (`workflow.memory`): how values
are held on the CPU, whatever `OrtOptions.arena` says. ``least``: each for itself, given back
after its last use. ``block``: in one block, laid out at the first run. ``usual``: no key."""
_M_MMAP_THRESHOLD, _SMALLEST_MAP = -3, 128 << 10


@dataclass(frozen=True)
class OrtOptions:
    """How ONNX Runtime runs a graph.

    Attributes:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: of one operator; 0 takes all cores this process may use.
        arena: keep freed memory for the next run: a little faster, noticeably larger. On a GPU
            it is always kept; without `arena` it grows by no more than is asked for.
        as_written: carry out Q and DQ one by one in FP32 instead of with integer kernels, which
            saturate on some processors: slower, and the numbers that the file states.
    """

    provider: str = "cpu"
    threads: int = 0
    arena: bool = True
    as_written: bool = False

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise BackendError(f"provider '{self.provider}'", "one of " + ", ".join(PROVIDERS))
        if self.threads < 0:
            raise BackendError(f"{self.threads} threads", "0 (all cores) or more")


def import_onnxruntime() -> Any:
    """The onnxruntime module; MissingDependencyError where it is not installed.

    Its telemetry is off unless ``ORT_DISABLE_TELEMETRY`` is set to something else: newer builds
    for Linux give the machine an identifier, keep a database in the home folder and report to
    its maker (microsoft/onnxruntime, pull request 27379). A camera should not, unasked; and it
    takes a thread and 3 MB (measured).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "cpu", "running networks") from error
    return onnxruntime


def _session_options(ort: Any, options: OrtOptions, lean: str = "") -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = options.arena and not lean
    if lean:
        # Reuse lets values of one size share a buffer, and so keeps it from the first of them
        # to the last: of a graph in pieces, all along.
        settings.enable_mem_reuse = False
        settings.enable_mem_pattern = lean == "block"
    # Without VNNI, x86's products of uint8 and int8 saturate at 16 bits and masks change; so they
    # are exact, and slower. It says nothing on other processors.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    if options.as_written:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    # 3 = errors only: warnings about constant folding say nothing to a user.
    settings.log_severity_level = 3
    return settings


def _return_freed_memory() -> None:
    """Let this process give large freed blocks back to the system at once, from now on.

    glibc raises the size from which it does so to that of the largest block freed so far
    (mallopt(3), M_MMAP_THRESHOLD), and what lies below stays in a heap full of holes. Other C
    libraries have no such setting; nothing is done there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _SMALLEST_MAP)


def _lean_mode(path: Path) -> str:
    try:
        return read_onnx_header(path).metadata.get(LEAN_KEY, "")
    except OnnxFileError:
        return ""  # loading it says what is wrong with it


class OrtEngine:
    """An ONNX file loaded by ONNX Runtime.

    Raises BackendError where the provider is missing or does not start, and OnnxFileError where
    the file does not load.
    """

    def __init__(self, path: Path, options: OrtOptions | None = None) -> None:
        self.options, self._path = options or OrtOptions(), path
        self.lean = _lean_mode(path) if self.options.provider == "cpu" else ""
        if self.lean:
            _return_freed_memory()  # before the weights are read
        self.ort = import_onnxruntime()
        provider = checked_provider(self.ort, self.options.provider)
        self._session: onnxruntime.InferenceSession | None = self._load()
        self.name = f"onnxruntime {self.ort.__version__} ({provider})"
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())

    def _load(self, stream: int | None = None) -> onnxruntime.InferenceSession:
        """A session of ONNX Runtime's, on this CUDA stream where it is on a GPU."""
        ort, options = self.ort, self.options
        try:
            session = self._session_on(provider_list(options.provider, self._wish(stream)))
        except SegdeployError:
            raise
        except Exception as error:
            # onnxruntime raises a class per status code, all straight below Exception.
            said = _first_line(error)
            if options.provider != "cpu" and self._loads_on_cpu():
                raise not_started(options.provider, ort.__version__, said) from error
            raise OnnxFileError(
                f"{self._path} does not load in onnxruntime {ort.__version__}: {said}",
                "an ONNX file exported by segdeploy",
                "export it again, or copy it again if it came from elsewhere",
            ) from error
        check_taken(session, options.provider, stream)
        return session

    def _wish(self, stream: int | None) -> Wish:
        if self.options.provider != "tensorrt":
            return Wish(stream, self.options.arena)
        return Wish(
            stream, self.options.arena, spec_from_onnx(self._path).precision, _tensorrt_cache()
        )

    def _session_on(
        self, providers: list[tuple[str, dict[str, str]]]
    ) -> onnxruntime.InferenceSession:
        settings = _session_options(self.ort, self.options, self.lean)
        # With its fallback on, onnxruntime prints to stdout and takes the CPU, now or in any run.
        session: onnxruntime.InferenceSession = self.ort.InferenceSession(
            str(self._path), settings, providers=providers, enable_fallback=0
        )
        return session

    def _loads_on_cpu(self) -> bool:
        """Whether the file is sound, so that the provider is at fault: asked, not guessed."""
        try:
            self._session_on(provider_list("cpu", Wish()))
        except Exception:
            return False
        return True

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> Session:
        if self._session is None:
            raise RunError("a closed engine was asked for a session", "an open one")
        return OrtSession(self, self._session)

    def close(self) -> None:
        self._session = None


class OrtSession:
    """One stream of work: its output buffers are bound once per shape and written again."""

    def __init__(self, engine: OrtEngine, session: onnxruntime.InferenceSession) -> None:
        self._engine = engine
        self._session: onnxruntime.InferenceSession | None = session
        self._binding: Any = session.io_binding()
        self._buffers: dict[str, Array] = {}

    def run(self, arrays: Arrays) -> dict[str, Array]:
        if self._session is None:
            raise RunError("a closed session was run", "an open one")
        image = checked_image(arrays)
        if self._engine.lean:
            # A new buffer takes no memory before the network's end, when little else is held.
            self._buffers = {}
        self._bind(image)
        run_bound(self._session, self._binding, image.shape)
        return self._buffers

    def _bind(self, image: Array) -> None:
        # The input is bound each time: its address may have changed with the caller's array.
        self._binding.bind_input(
            "image", "cpu", 0, np.uint8, image.shape, image.__array_interface__["data"][0]
        )
        shapes = self._engine.output_shapes({"image": image.shape})
        for output in self._engine.outputs:
            buffer = self._buffers.get(output.name)
            if buffer is None or buffer.shape != shapes[output.name]:
                buffer = np.empty(shapes[output.name], dtype=output.dtype)
                self._buffers[output.name] = buffer
                self._binding.bind_output(
                    output.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data
                )

    def close(self) -> None:
        # The binding holds the session, and with it the weights.
        self._session = self._binding = None
        self._buffers = {}


def run_bound(session: Any, binding: Any, shape: Shape, settings: Any = None) -> None:
    """Run what is bound, with `settings` (RunOptions); RunError where onnxruntime fails."""
    try:
        session.run_with_iobinding(binding, settings)
    except Exception as error:
        raise RunError(
            f"onnxruntime failed on an input of {'x'.join(map(str, shape))}: {_first_line(error)}",
            "a run without error",
            "try a smaller --size, or --provider cpu",
        ) from error


def _info(node: Any) -> TensorInfo:
    shape = tuple(dim if isinstance(dim, int) else None for dim in node.shape)
    return TensorInfo(node.name, _DTYPES.get(node.type, node.type), shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)


def _tensorrt_cache() -> Path | None:
    """Where TensorRT's provider keeps its engines; it makes one folder itself, not its parents."""
    root = user_cache()
    if root is None:
        return None
    cache = root / "onnxruntime-tensorrt"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # nothing is kept: the next start builds again
    return cache
