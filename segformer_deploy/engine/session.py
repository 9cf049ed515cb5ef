"""The border between the runtime and the libraries that run a network, and its fake.

An `Engine` is loaded once and may be shared between threads; a `Session` is one stream of
work on it and is used by one thread at a time. Nothing above this room knows which library
runs. The network has one input ``image`` (uint8 ``[batch, height, width, 3]``, RGB) and one
output: ``logits`` (float32 ``[batch, classes, ceil(height/4), ceil(width/4)]``) or
``class_map`` (``[batch, height, width]``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from segformer_deploy.cuda.driver import Driver, Stream
from segformer_deploy.errors import RunError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorInfo:
    """Name, NumPy dtype name and shape of an input or output; a free dimension is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@runtime_checkable
class Session(Protocol):
    """One stream of work on an engine; not for two threads at once."""

    def run(self, arrays: Arrays) -> dict[str, Array]:
        """Run the network. The arrays returned are valid until the next `run` or `close`.

        Raises RunError where the inputs do not fit or the library fails.
        """

    def close(self) -> None:
        """Give back what this session holds; safe to call twice."""


@runtime_checkable
class Engine(Protocol):
    """A loaded network; immutable, shared by its sessions."""

    @property
    def name(self) -> str:
        """Library, version and provider: ``onnxruntime 1.32.0 (CPUExecutionProvider)``."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    def outputs(self) -> tuple[TensorInfo, ...]: ...

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of the outputs for these shapes of the inputs."""

    def session(self) -> Session: ...

    def close(self) -> None:
        """Give back what the engine holds; safe to call twice."""


@runtime_checkable
class DeviceSession(Session, Protocol):
    """A session that can also work on a caller's stream and device memory."""

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], shape: Shape) -> None:
        """Queue a run on `stream`: inputs and outputs lie at `addresses`; nothing waits.

        Args:
            shape: of the input ``image``.
        """

    def capturable(self, stream: Stream) -> bool:
        """Whether the run that was enqueued last, repeated, may be captured on `stream`.

        Asked after a plain `enqueue` on that stream and before a capture begins, never inside
        one. False where the engine's `graphs` is.
        """


@runtime_checkable
class StripSession(Session, Protocol):
    """A session that can give a frame's logits in strips, and so needs no room for all."""

    def strips(self, arrays: Arrays) -> Iterator[tuple[int, Array]]:
        """Run one frame: (first row, logits `[classes, rows, w]`) of each strip from the top.

        The last row of a strip is the first of the next. Each array is valid until the next.
        """


class DeviceEngine(Engine, Protocol):
    """An engine whose sessions work on a GPU."""

    @property
    def open_driver(self) -> Callable[[], Driver]:
        """Opens the GPU that the engine is on."""

    @property
    def graphs(self) -> bool:
        """Whether an `enqueue` may be captured, to be replayed as a CUDA graph."""

    def session(self) -> DeviceSession: ...


def network_output_shapes(outputs: tuple[TensorInfo, ...], image_shape: Shape) -> dict[str, Shape]:
    """Output shapes of a SegFormer graph from the shape of ``image`` (`[B, H, W, 3]`)."""
    batch, height, width, _ = image_shape
    shapes: dict[str, Shape] = {}
    for output in outputs:
        if output.name == "class_map":
            shapes[output.name] = (batch, height, width)
        else:
            classes = output.shape[1]
            assert classes is not None
            shapes[output.name] = (batch, classes, -(-height // 4), -(-width // 4))
    return shapes


def checked_image(arrays: Arrays) -> Array:
    """The input ``image`` in one piece of memory; RunError where it is not such an input."""
    image = arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3:
        found = "nothing" if image is None else f"{image.dtype} {image.shape}"
        raise RunError(f"the input 'image' is {found}", "uint8 [batch, height, width, 3]")
    return np.ascontiguousarray(image)


class FakeEngine:
    """An engine without a network: `answer(image)` computes the output. For tests.

    Args:
        answer: uint8 `[B, H, W, 3]` -> the output array.
        classes: number of logit channels announced.
        output: ``logits`` or ``class_map``.
    """

    name = "fake"

    def __init__(
        self, answer: Callable[[Array], Array], classes: int, output: str = "logits"
    ) -> None:
        self._answer = answer
        self.inputs = (TensorInfo("image", "uint8", (None, None, None, 3)),)
        logits = output == "logits"
        self.outputs = (
            TensorInfo(
                output,
                "float32" if logits else "uint8",
                (None, classes, None, None) if logits else (None, None, None),
            ),
        )
        self.closed = False

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> FakeSession:
        return FakeSession(self)

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """A session of `FakeEngine`; reuses one output buffer, as real sessions do."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.runs = 0
        self.closed = False
        self._buffer: Array | None = None

    def run(self, arrays: Arrays) -> dict[str, Array]:
        if self.closed:
            raise RunError("a closed session was run", "an open one")
        self.runs += 1
        answer = np.asarray(self.engine._answer(arrays["image"]))
        expected = self.engine.output_shapes({"image": arrays["image"].shape})
        name = self.engine.outputs[0].name
        if answer.shape != expected[name]:
            raise RunError(f"the fake answered {answer.shape}", f"{expected[name]}")
        if self._buffer is None or self._buffer.shape != answer.shape:
            self._buffer = np.empty_like(answer)
        self._buffer[...] = answer
        return {name: self._buffer}

    def close(self) -> None:
        self.closed = True
