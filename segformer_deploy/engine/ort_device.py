"""ONNX Runtime on a GPU, its input and output in device memory: no frame crosses the bus for it.

A session of ONNX Runtime's works on one CUDA stream for life, the one it is made with. So the
engine makes one for each stream that its sessions work on, and they share it: what runs on one
stream runs in turn. What comes before and after a run on the stream is ordered by the stream
alone; nothing waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.cuda import opening
from segformer_deploy.cuda.driver import Driver, Stream
from segformer_deploy.engine.ort import OrtEngine, OrtOptions, OrtSession, run_bound
from segformer_deploy.engine.session import Array, Arrays, Shape
from segformer_deploy.errors import RunError

if TYPE_CHECKING:
    import onnxruntime

_NO_WAIT = "disable_synchronize_execution_providers"
"""Of onnxruntime_run_options_config_keys.h: a run queues its work and returns."""


def open_driver() -> Driver:
    """The GPU that sessions work on."""
    return opening.open_driver().driver


@dataclass
class _Lent:
    session: onnxruntime.InferenceSession
    users: int = 0


class OrtDeviceEngine(OrtEngine):
    """An ONNX file on ONNX Runtime's CUDA or TensorRT provider; a `DeviceEngine`.

    Args:
        open_driver: opens the GPU; asked only by those who bring device memory.

    Raises BackendError where the provider does not start; it is never replaced by the CPU.
    """

    graphs = False
    """Its runs take memory from an arena, and copy what its CPU nodes compute: no capture."""

    def __init__(
        self,
        path: Path,
        options: OrtOptions,
        open_driver: Callable[[], Driver] = open_driver,
    ) -> None:
        super().__init__(path, options)
        self.open_driver = open_driver
        self._lock, self._closed = threading.Lock(), False
        # The session that showed that the provider starts serves whoever brings host memory.
        assert self._session is not None
        self._lent: dict[int | None, _Lent] = {None: _Lent(self._session)}

    def session(self) -> OrtDeviceSession:
        if self._closed:
            raise RunError("a closed engine was asked for a session", "an open one")
        return OrtDeviceSession(self)

    def lend(self, stream: int | None) -> onnxruntime.InferenceSession:
        """ONNX Runtime's session on this stream (None: on its own); `take_back` ends the loan."""
        with self._lock:
            if stream not in self._lent:
                # First of all what nobody uses goes: each holds the weights.
                self._forget_idle()
                self._lent[stream] = _Lent(self._load(stream))
            lent = self._lent[stream]
            lent.users += 1
            return lent.session

    def take_back(self, stream: int | None) -> None:
        """End a loan; with the last one the session goes, for the stream may be closed next."""
        with self._lock:
            self._lent[stream].users -= 1
            if not self._lent[stream].users:
                del self._lent[stream]

    def _forget_idle(self) -> None:
        self._session = None
        self._lent = {stream: lent for stream, lent in self._lent.items() if lent.users}

    def close(self) -> None:
        """Sessions that are open still work, until they are closed."""
        with self._lock:
            self._closed = True
            self._forget_idle()


class OrtDeviceSession:
    """One stream of work: host arrays by `run`, or device memory by `enqueue`."""

    def __init__(self, engine: OrtDeviceEngine) -> None:
        self._engine: OrtDeviceEngine | None = engine
        self._host: OrtSession | None = None
        self._on: _OnStream | None = None

    def run(self, arrays: Arrays) -> dict[str, Array]:
        engine = self._open_engine()
        if self._host is None:
            self._host = OrtSession(engine, engine.lend(None))
        return self._host.run(arrays)

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], shape: Shape) -> None:
        """Queue one run on the caller's stream and device buffers; waits for nothing.

        Args:
            addresses: of `image` and of each output, of the engine's dtypes and of
                `output_shapes`; the caller orders what fills and reads them by the stream.
            shape: of `image`.

        The session must be closed before its stream.
        """
        engine, handle = self._open_engine(), stream.handle
        if self._on is None or self._on.handle != handle:
            self._leave_stream(engine)
            self._on = _OnStream(engine, handle)
        self._on.enqueue(addresses, shape)

    def capturable(self, stream: Stream) -> bool:
        """No run may be captured: see `OrtDeviceEngine.graphs`."""
        return False

    def _open_engine(self) -> OrtDeviceEngine:
        if self._engine is None:
            raise RunError("a closed session was run", "an open one")
        return self._engine

    def _leave_stream(self, engine: OrtDeviceEngine) -> None:
        if self._on is not None:
            handle, self._on = self._on.handle, None
            engine.take_back(handle)

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        self._leave_stream(engine)
        if self._host is not None:
            self._host.close()
            self._host = None
            engine.take_back(None)


class _OnStream:
    """A binding of device memory to the ONNX Runtime session of one stream."""

    def __init__(self, engine: OrtDeviceEngine, handle: int) -> None:
        self._engine, self.handle = engine, handle
        self._settings: Any = engine.ort.RunOptions()
        self._settings.add_run_config_entry(_NO_WAIT, "1")
        self._bound: tuple[Shape, dict[str, int]] | None = None
        self._session = engine.lend(handle)
        try:
            self._binding = self._session.io_binding()
        except BaseException:
            del self._session
            engine.take_back(handle)
            raise

    def enqueue(self, addresses: Mapping[str, int], shape: Shape) -> None:
        wanted = shape, dict(addresses)
        if wanted != self._bound:
            self._bound = None  # half-bound until all of it is right
            self._bind(addresses, shape)
            self._bound = wanted
        run_bound(self._session, self._binding, shape, self._settings)

    def _bind(self, addresses: Mapping[str, int], shape: Shape) -> None:
        engine = self._engine
        for one in (*engine.inputs, *engine.outputs):
            if one.name not in addresses:
                raise RunError(
                    f"a run of {engine.name} without a buffer for '{one.name}'",
                    "an address for each input and output",
                )
        # Lists: what pybind takes for a vector of int64 in every release.
        self._binding.bind_input("image", "cuda", 0, np.uint8, list(shape), addresses["image"])
        shapes = engine.output_shapes({"image": shape})
        for output in engine.outputs:
            dtype, to = np.dtype(output.dtype).type, addresses[output.name]
            self._binding.bind_output(output.name, "cuda", 0, dtype, list(shapes[output.name]), to)
