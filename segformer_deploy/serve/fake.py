"""A server that is not there: a function behind the client's border, for tests."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.serve.names import (
    CLASS_MAP,
    ENCODED,
    ENGINE_PARAMETER,
    FRAME,
    SPEC_PARAMETER,
)
from segformer_deploy.serve.shared_memory import FOLDER
from segformer_deploy.serve.transport import (
    DTYPES,
    Array,
    Call,
    RefusedError,
    Reply,
    Shared,
    reply_of,
)
from segformer_deploy.spec import ModelSpec

Segment = Callable[[npt.NDArray[np.uint8]], Array]


def config_of(spec: ModelSpec, max_batch: int = 8) -> dict[str, Any]:
    """The part of a packaged model's configuration that a client reads."""
    return {
        "max_batch_size": max_batch,
        "input": [{"name": FRAME}, {"name": ENCODED}],
        "output": [{"name": CLASS_MAP}],
        "parameters": {
            SPEC_PARAMETER: {"string_value": spec.to_json()},
            ENGINE_PARAMETER: {"string_value": '{"backend": "fake", "precision": "fp32"}'},
        },
    }


class FakeTransport:
    """A `Transport` whose server is `segment`.

    Args:
        segment: uint8 `[H, W, 3]` BGR -> class map `[H, W]`.
        configs: of its models, by name.
        sees_memory: whether it can map shared memory of this machine.

    Attributes:
        calls: all requests so far.
        regions: the shared memory that it knows, by name.
        failure: raised instead of the next answers.
        closed: how often it was hung up on.
        most_shared: it refuses to map more bytes at once.
    """

    url = "fake://server"

    def __init__(
        self, segment: Segment, configs: dict[str, dict[str, Any]], *, sees_memory: bool = True
    ) -> None:
        self._segment, self._configs, self._sees = segment, configs, sees_memory
        self.calls: list[Call] = []
        self.regions: dict[str, mmap.mmap] = {}
        self.failure: Exception | None = None
        self.closed = 0
        self.most_shared = 1 << 40

    def server(self) -> str:
        return "fake 1.0"

    def models(self) -> list[str]:
        return sorted(self._configs)

    def config(self, model: str, version: str) -> dict[str, Any]:
        if model not in self._configs:
            raise RefusedError("missing", f"Request for unknown model: '{model}' is not found")
        return self._configs[model]

    def infer(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        maps = [self._segment(self._bgr(call, one)) for one in self._pictures(call)]
        answer = np.stack(maps)
        datatype = next(name for name, kind in DTYPES.items() if answer.dtype == kind)
        if call.answer is None:
            return reply_of(self.url, answer.shape, datatype, answer)
        memory = self._known(call.answer)
        if answer.nbytes <= call.answer.bytes:
            np.frombuffer(memory, answer.dtype, answer.size)[:] = answer.ravel()
        return reply_of(self.url, answer.shape, datatype, None)

    def register(self, region: str, key: str, size: int) -> None:
        path = FOLDER / Path(key).name
        if not self._sees or not path.exists() or size > self.most_shared:
            raise RefusedError("invalid", f"Unable to open shared memory region: '{region}'")
        with path.open("r+b") as file:
            self.regions[region] = mmap.mmap(file.fileno(), size)

    def unregister(self, region: str) -> None:
        self.regions.pop(region, None)

    def close(self) -> None:
        self.closed += 1

    def _known(self, shared: Shared) -> mmap.mmap:
        if shared.region not in self.regions:
            raise RefusedError("invalid", f"Unable to find shared memory region: '{shared.region}'")
        return self.regions[shared.region]

    def _pictures(self, call: Call) -> Sequence[npt.NDArray[np.uint8]]:
        if isinstance(call.data, Shared):
            pixels = np.frombuffer(self._known(call.data), np.uint8, call.data.bytes)
            return list(pixels.reshape(call.shape))
        return [_decoded(call.data[0])] if call.encoded else list(call.data)

    @staticmethod
    def _bgr(call: Call, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        swap = not call.encoded and call.pixel_format == "rgb"
        return picture[..., ::-1] if swap else picture


def _decoded(file: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2

    picture = cv2.imdecode(file, cv2.IMREAD_COLOR)
    if picture is None:
        raise RefusedError("invalid", "the picture in 'encoded' cannot be read as an image")
    return picture.astype(np.uint8, copy=False)
