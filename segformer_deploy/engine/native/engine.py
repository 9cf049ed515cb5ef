"""The compiled network as an engine: `Engine` and `Session` of engine/session.py."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.native.library import Library, Step, load_library
from segformer_deploy.engine.native.plain import unsupported
from segformer_deploy.engine.native.program import Program
from segformer_deploy.engine.native.reader import network_from_graph
from segformer_deploy.engine.native.strips import decoder_of_rows, strip_rows
from segformer_deploy.engine.native.weights import Network
from segformer_deploy.engine.onnx_file import read_onnx_header
from segformer_deploy.engine.onnx_graph import read_onnx_graph
from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Shape,
    checked_image,
    network_output_shapes,
)
from segformer_deploy.errors import RunError
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE
from segformer_deploy.version import __version__


class NativeEngine:
    """An exported graph, FP32 or INT8, run by our own kernels on the CPU.

    Args:
        path: the ONNX file.
        threads: of one session; 0 takes all cores this process may use.

    Raises BackendError where the kernels are missing or the graph is not the plain deploy
    form, and OnnxFileError where the file does not read.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.threads = threads or usable_cores()
        self.library = load_library()
        header = read_onnx_header(path)
        if [output.name for output in header.outputs] != ["logits"]:
            raise unsupported("its output is no logits")
        self.inputs, self.outputs = header.inputs, header.outputs
        self.network: Network | None = network_from_graph(read_onnx_graph(path), self.library)
        self.name = f"native {__version__} (CPU, {self.library.variant})"

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> NativeSession:
        if self.network is None:
            raise RunError("a closed engine was asked for a session", "an open one")
        return NativeSession(self, self.network, self.library)

    def close(self) -> None:
        self.network = None


@contextmanager
def _memory_for(shape: Shape) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise RunError(
            f"no memory for an input of {shape[0]}x{shape[1]}x{shape[2]} ({error})",
            "buffers for every stage",
            "use a smaller --size or a smaller batch",
        ) from error


def _check_status(status: int) -> None:
    if status:
        raise MemoryError("no memory for a kernel's scratch")


class NativeSession:
    """One stream of work: threads and buffers of its own."""

    def __init__(self, engine: NativeEngine, network: Network, library: Library) -> None:
        self._engine = engine
        self._network: Network | None = network
        self._library = library
        self._pool: int | None = None
        self._pool_owner = 0
        self._program: Program | None = None
        self._size = (0, 0)
        self._logits = np.empty((0, 0, 0, 0), np.float32)

    def run(self, arrays: Arrays) -> dict[str, Array]:
        image = self._checked(arrays)
        wanted = self._engine.output_shapes({"image": image.shape})["logits"]
        with _memory_for(image.shape):
            program = self._prepared(image.shape)
            if self._logits.shape != wanted:
                self._logits = np.empty(wanted, np.float32)
            for frame, logits in zip(image, self._logits, strict=True):
                self._run(program, frame, logits.ctypes.data)
        return {"logits": self._logits}

    def strips(self, arrays: Arrays) -> Iterator[tuple[int, Array]]:
        """Run one frame and give its logits from the top: (first row, `[classes, rows, w]`).

        Neighbouring strips share one row; each array is valid until the next one.
        """
        image = self._checked(arrays)
        if len(image) != 1:
            raise RunError(f"{len(image)} frames in strips", "one at a time")
        classes, height, width = self._engine.output_shapes({"image": image.shape})["logits"][1:]
        parts = list(strip_rows(height, width, classes, self._engine.threads))
        most = max(end - first for first, end in parts)
        with _memory_for(image.shape):
            program = self._prepared(image.shape)
            if self._logits.size != classes * most * width:
                self._logits = np.empty((1, classes, most, width), np.float32)
            whole = self._logits.ctypes.data if len(parts) == 1 else None
            self._run(program, image[0], whole)
        if whole is not None:
            yield 0, self._logits.reshape(classes, most, width)
            return
        for first, end in parts:
            shape = classes, end - first, width
            rows = self._logits.reshape(-1)[: classes * (end - first) * width].reshape(shape)
            step = decoder_of_rows(program.decoder, first, end, rows.ctypes.data)
            with _memory_for(image.shape):
                _check_status(
                    self._library.run(self._open_pool(), Step(step.kind, ctypes.addressof(step)), 1)
                )
            yield first, rows

    def _checked(self, arrays: Arrays) -> Array:
        if self._network is None:
            raise RunError("a closed session was run", "an open one")
        image = checked_image(arrays)
        height, width = image.shape[1:3]
        if min(height, width) < SMALLEST_NETWORK_SIDE:
            raise RunError(
                f"an input of {height}x{width}",
                f"at least {SMALLEST_NETWORK_SIDE} pixels on each side",
            )
        return image

    def _prepared(self, shape: Shape) -> Program:
        assert self._network is not None
        size = shape[1], shape[2]
        if self._program is None or self._size != size:
            self._program = None  # first free, then take
            self._program = Program(self._network, self._library.panel, *size)
            self._size = size
        return self._program

    def _run(self, program: Program, frame: Array, logits: int | None) -> None:
        run, pool = self._library.run, self._open_pool()
        _check_status(program.run(run, pool, frame.ctypes.data, logits))

    def _open_pool(self) -> int:
        # A forked child inherits the pool's memory without its threads.
        if self._pool is None or self._pool_owner != os.getpid():
            self._pool = self._library.open_pool(self._engine.threads)
            self._pool_owner = os.getpid()
            if self._pool is None:
                raise RunError(
                    f"{self._engine.threads} threads could not be started",
                    "as many threads as were asked for",
                    "ask for fewer with --threads",
                )
        return self._pool

    def close(self) -> None:
        if self._pool is not None and self._pool_owner == os.getpid():
            self._library.close_pool(self._pool)
        self._pool = None
        self._network = None
        self._program = None

    def __del__(self) -> None:
        self.close()
