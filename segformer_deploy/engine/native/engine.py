"""The compiled network as an engine: `Engine` and `Session` of engine/session.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.native.library import Library, load_library
from segformer_deploy.engine.native.plain import unsupported
from segformer_deploy.engine.native.program import Program
from segformer_deploy.engine.native.reader import network_from_graph
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
        if self._network is None:
            raise RunError("a closed session was run", "an open one")
        image = checked_image(arrays)
        batch, height, width, _ = image.shape
        if min(height, width) < SMALLEST_NETWORK_SIDE:
            raise RunError(
                f"an input of {height}x{width}",
                f"at least {SMALLEST_NETWORK_SIDE} pixels on each side",
            )
        try:
            self._prepare(image.shape)
            assert self._program is not None
            for index in range(batch):
                status = self._program.run(
                    self._library.run,
                    self._open_pool(),
                    image[index].ctypes.data,
                    self._logits[index].ctypes.data,
                )
                if status:
                    raise MemoryError("no memory for a kernel's scratch")
        except MemoryError as error:
            raise RunError(
                f"no memory for an input of {batch}x{height}x{width} ({error})",
                "buffers for every stage",
                "use a smaller --size or a smaller batch",
            ) from error
        return {"logits": self._logits}

    def _prepare(self, shape: Shape) -> None:
        assert self._network is not None
        size = shape[1], shape[2]
        if self._program is None or self._size != size:
            self._program = None  # first free, then take
            self._program = Program(self._network, self._library.panel, *size)
            self._size = size
        wanted = self._engine.output_shapes({"image": shape})["logits"]
        if self._logits.shape != wanted:
            self._logits = np.empty(wanted, np.float32)

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
