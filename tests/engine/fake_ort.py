"""onnxruntime-gpu for tests without a GPU: the installed onnxruntime's answers, on fake streams.

::

    fake = install(monkeypatch)       the module `onnxruntime`, with CUDA and TensorRT
    fake.dropped.add(CUDA)            it does not start: onnxruntime carries on without a word
    fake.refuses[CUDA] = "..."        it does not start: an exception that says so
    fake.knows_streams = False        a release whose Python interface takes no CUDA stream
    fake.fails = "..."                the next run fails
    fake.streams, fake.made           of sessions that are alive; provider options of all made

A run reads and writes device memory when the stream comes to it, as late as the stream's
schedule has it. What a real GPU would answer with a wrong mask or a crash is a `MisuseError`,
raised at once, or kept in `faults` where nobody could catch it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as real
import pytest

from tests.engine.trt.world import MisuseError, World

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NO_WAIT = "disable_synchronize_execution_providers"
BOOLEANS = ("True", "False")
KNOWN: dict[str, dict[str, Callable[[str], bool]]] = {
    CPU: {},
    CUDA: {
        "device_id": str.isdigit,
        "do_copy_in_default_stream": ("0", "1").__contains__,
        "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT").__contains__,
        "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested").__contains__,
        "use_tf32": ("0", "1").__contains__,
        "user_compute_stream": str.isdigit,
    },
    TENSORRT: {
        "device_id": str.isdigit,
        **{f"trt_{name}_enable": BOOLEANS.__contains__ for name in ("fp16", "int8")},
        **{f"trt_{name}_cache_enable": BOOLEANS.__contains__ for name in ("engine", "timing")},
        **{f"trt_{name}_cache_path": bool for name in ("engine", "timing")},
        "user_compute_stream": str.isdigit,
    },
}
"""Options of the releases since 1.18, and what they may be."""


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


@dataclass
class FakeOrt:
    """See the top of this file."""

    world: World = field(default_factory=lambda: World("1.22.0", False))
    available: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    dropped: set[str] = field(default_factory=set)
    refuses: dict[str, str] = field(default_factory=dict)
    knows_streams: bool = True
    fails: str = ""
    made: list[dict[str, dict[str, str]]] = field(default_factory=list)
    sessions: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    faults: list[str] = field(default_factory=list)

    @property
    def streams(self) -> list[int | None]:
        """On which streams the sessions are that are alive."""
        if self.sessions:
            gc.collect()  # an error's traceback may hold some
        return sorted((one.stream for one in self.sessions), key=lambda one: one or 0)

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def is_open(self, stream: int) -> bool:
        try:
            self.world.capturing(stream)
        except AssertionError:
            return False
        return True

    def stream_of(self, options: dict[str, str]) -> int | None:
        text = options.get("user_compute_stream") if self.knows_streams else None
        return None if text is None else int(text)


@dataclass(frozen=True)
class Bound:
    """Where an input or output lies."""

    device: str
    dtype: Any
    shape: tuple[int, ...]
    address: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def view(self, world: World) -> Any:
        """The bytes there, as the array they are."""
        if self.device == "cuda":
            data = world.view(self.address, self.bytes)
        else:
            data = np.ctypeslib.as_array((ctypes.c_uint8 * self.bytes).from_address(self.address))
        return data.view(self.dtype).reshape(self.shape)


class IOBinding:
    def __init__(self, session: InferenceSession) -> None:
        self.session = session
        self.inputs: dict[str, Bound] = {}
        self.outputs: dict[str, Bound] = {}

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Any,
        buffer_ptr: int,
    ) -> None:
        self.inputs[name] = self._bound(device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: int | None = None,
    ) -> None:
        if buffer_ptr is None:
            raise MisuseError(f"'{name}' would lie in memory of onnxruntime's own")
        self.outputs[name] = self._bound(device_type, device_id, element_type, shape, buffer_ptr)

    def _bound(self, device: str, number: int, dtype: Any, shape: Any, address: int) -> Bound:
        if device not in ("cpu", "cuda") or number != 0 or not isinstance(address, int):
            raise MisuseError(f"bound to {device} {number} at {address!r}")
        return Bound(device, np.dtype(dtype), tuple(int(side) for side in shape), address)


class InferenceSession:
    fake: FakeOrt

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: Any = None,
        providers: Any = None,
        **kwargs: Any,
    ) -> None:
        fake, self.stream = self.fake, None
        if kwargs != {"enable_fallback": 0}:
            raise MisuseError("with its fallback on, onnxruntime takes the CPU of itself")
        given: dict[str, dict[str, str]] = dict(providers)
        for name, options in given.items():
            self._check(name, options)
        self._real = real.InferenceSession(path_or_bytes, sess_options, providers=[CPU])
        self._options = {n: o for n, o in given.items() if n not in fake.dropped} | {CPU: {}}
        # All of a session's GPU providers work on one stream.
        streams = {fake.stream_of(options) for n, options in given.items() if n != CPU} or {None}
        if len(streams) > 1:
            raise MisuseError(f"providers on different streams: {streams}")
        (self.stream,) = streams
        if self.stream is not None and not fake.is_open(self.stream):
            raise MisuseError(f"a session on {self.stream:#x}, which is no open stream")
        fake.made.append(given)
        fake.sessions.add(self)

    def _check(self, name: str, options: dict[str, str]) -> None:
        if name in self.fake.refuses:
            raise RuntimeError(self.fake.refuses[name])
        for option, value in options.items():
            if option not in KNOWN[name]:
                raise RuntimeError(f'Unknown provider option: "{option}".')
            if not (isinstance(value, str) and KNOWN[name][option](value)):
                raise RuntimeError(f"[ONNXRuntimeError] {option}: {value!r}")

    def __del__(self) -> None:
        if self.stream is not None and not self.fake.is_open(self.stream):
            self.fake.faults.append("a session outlived its stream")

    def get_providers(self) -> list[str]:
        return list(self._options)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        told = {name: dict(options) for name, options in self._options.items()}
        for name, options in told.items():
            options.pop("user_compute_stream", None)
            if self.fake.knows_streams and name != CPU:
                options["user_compute_stream"] = str(self.stream or 0)
        return told

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        fake = self.fake
        if iobinding.session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        if fake.fails:
            said, fake.fails = fake.fails, ""
            raise RuntimeError(said)
        work = self._work(dict(iobinding.inputs), dict(iobinding.outputs))
        on_device = any(b.device == "cuda" for b in (*iobinding.inputs.values(),))
        if not on_device:
            work()  # a run on host memory ends with a wait
        elif self.stream is None:
            raise MisuseError("device memory on a stream that nothing of ours is ordered by")
        elif fake.world.capturing(self.stream):
            raise MisuseError("a run of onnxruntime inside a capture: its arena may allocate")
        elif run_options is None or run_options.entries.get(NO_WAIT) != "1":
            raise MisuseError("this run waits for its stream")
        else:
            fake.world.enqueue(self.stream, work)

    def _work(self, inputs: dict[str, Bound], outputs: dict[str, Bound]) -> Callable[[], None]:
        names = [one.name for one in self._real.get_outputs()]
        if set(inputs) != {one.name for one in self._real.get_inputs()} or set(outputs) != {*names}:
            raise MisuseError(f"bound are {[*inputs]} and {[*outputs]}")
        session, world = self._real, self.fake.world

        def run() -> None:
            feeds = {name: bound.view(world).copy() for name, bound in inputs.items()}
            for name, answer in zip(names, session.run(names, feeds), strict=True):
                view = outputs[name].view(world)
                if (view.dtype, view.shape) != (answer.dtype, answer.shape):
                    raise MisuseError(f"'{name}' is {answer.dtype} {answer.shape}")
                view[...] = answer

        return run


@cache
def _reference(graph: bytes) -> Any:
    options = real.SessionOptions()
    options.intra_op_num_threads = 1
    return real.InferenceSession(graph, options, providers=[CPU])


def expected(graph: bytes, image: Any) -> Any:
    """The logits, by the installed onnxruntime."""
    return _reference(graph).run(["logits"], {"image": image})[0]


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeOrt | None = None) -> FakeOrt:
    """The module under the name that the package imports; taken back at the end of the test."""
    fake = fake or FakeOrt()
    api: Any = types.ModuleType("onnxruntime")
    api.__version__ = fake.world.version
    api.SessionOptions, api.RunOptions = real.SessionOptions, RunOptions
    api.get_available_providers = fake.get_available_providers
    api.InferenceSession = type("InferenceSession", (InferenceSession,), {"fake": fake})
    monkeypatch.setitem(sys.modules, "onnxruntime", api)
    return fake
