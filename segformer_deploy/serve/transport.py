"""What a client asks of a Triton server, whichever way it is spoken to.

::

    TritonSegmenter ──> Transport ──> HttpTransport   Python's own http.client, nothing to install
                                 ├──> GrpcTransport   tritonclient[grpc]
                                 └──> FakeTransport   a function, for tests
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import ServerError
from segformer_deploy.serve.names import ENCODED, FRAME, PIXEL_FORMAT

Array = npt.NDArray[Any]
Kind = Literal["missing", "invalid", "failed"]

DTYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "INT32": np.int32}
"""Triton's names of what a class map may be."""


class RefusedError(Exception):
    """The server answered, and said no.

    Args:
        kind: ``missing``: no such model; ``invalid``: our request; ``failed``: anything else.
        text: the server's own words.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class Shared:
    """A piece of shared memory that the server knows.

    Attributes:
        region: its name there.
        bytes: how many of it are meant, from its beginning.
    """

    region: str
    bytes: int


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        model, version: which; an empty version takes the server's choice.
        shape: of the input: pixels `[B, H, W, 3]`, or a whole file `[1, N]`.
        data: uint8, of that shape, C-contiguous; or where it lies.
        pixel_format: of pixels.
        answer: where the class maps go; None: into the answer.
        most_bytes: no class maps of this request are larger.
    """

    model: str
    version: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8] | Shared
    pixel_format: str
    answer: Shared | None
    most_bytes: int

    @property
    def encoded(self) -> bool:
        return len(self.shape) == 2

    @property
    def input(self) -> str:
        return ENCODED if self.encoded else FRAME

    @property
    def parameters(self) -> dict[str, str]:
        """Of the request; a whole file says itself what it holds."""
        return {} if self.encoded else {PIXEL_FORMAT: self.pixel_format}


@dataclass(frozen=True)
class Reply:
    """The class maps of one request.

    Attributes:
        shape: batch first.
        datatype: Triton's name of it.
        values: of that shape, the caller's to keep; None where they went to shared memory.
    """

    shape: tuple[int, ...]
    datatype: str
    values: Array | None


class Transport(Protocol):
    """A way to speak to one server; used by one thread at a time.

    All raise ServerError where nobody answers, or not in time, or not as Triton does, and
    RefusedError where the server said no.
    """

    @property
    def url(self) -> str: ...

    def server(self) -> str:
        """Its name and version."""

    def models(self) -> list[str]:
        """Names of the models that are ready."""

    def config(self, model: str, version: str) -> dict[str, Any]:
        """A model's configuration, as ModelConfig reads in JSON with its own field names."""

    def infer(self, call: Call) -> Reply:
        """Have frames segmented."""

    def register(self, region: str, key: str, size: int) -> None:
        """Have the server map the shared memory `key`, `size` bytes, under the name `region`."""

    def unregister(self, region: str) -> None:
        """Have it forgotten."""

    def close(self) -> None:
        """Hang up; safe twice."""


def unreachable(url: str, why: str) -> ServerError:
    """Nobody is there, or nobody any more."""
    return ServerError(
        f"{url}: no answer ({why})",
        "a Triton server that runs and can be reached from here",
        "check the address, and the server's log; "
        "to start one: segdeploy package ENGINE --triton DIR",
    )


def too_slow(url: str, seconds: float) -> ServerError:
    """It may be there, but took too long."""
    return ServerError(
        f"{url}: no answer within {seconds:g} s",
        "an answer in time",
        "a longer --timeout, fewer cameras on that server, or more instances "
        "(segdeploy package --instances)",
    )


def not_triton(url: str, found: str) -> ServerError:
    """Somebody is there, but somebody else."""
    return ServerError(
        f"{url} is not a Triton server, or not at that port: {found}",
        "Triton's HTTP at http://HOST:8000, its gRPC at grpc://HOST:8001",
        "check scheme and port",
    )


def reply_of(url: str, shape: Sequence[int], datatype: str, values: Array | None) -> Reply:
    """A reply, checked; ServerError where it holds no class maps."""
    if datatype not in DTYPES or len(shape) != 3:
        raise ServerError(
            f"{url} answered with {datatype} {list(shape)}",
            "class maps, UINT8 or INT32 [batch, height, width]",
            "package the engine again with this version: segdeploy package ENGINE --triton DIR",
        )
    return Reply(tuple(shape), datatype, values)
