"""Frame in, class map out, by an engine on a Triton server: the `Segmenter` of a thin client.

::

    with TritonSegmenter("http://gpu-box:8000") as segment:
        class_map = segment(frame)          # frame: BGR uint8, as OpenCV gives it

Neither an engine nor an engine library is needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal, overload

import numpy as np

from segformer_deploy.errors import FrameError, InputError, ServerError
from segformer_deploy.runtime.batch import Frame, frames_of, size_of
from segformer_deploy.runtime.preprocess import PixelFormat, checked_size
from segformer_deploy.serve.address import parse_server
from segformer_deploy.serve.encode import LOSSY, Encoding, check_encoding, encoded
from segformer_deploy.serve.model import check_classes, served_model
from segformer_deploy.serve.shared_memory import SharedFrames, SharedMemoryError
from segformer_deploy.serve.transport import (
    DTYPES,
    Array,
    Call,
    RefusedError,
    Reply,
    Transport,
)
from segformer_deploy.spec import FrameSize

_LARGEST_ITEM = 4
"""Bytes of a pixel of an int32 class map."""


class TritonSegmenter:
    """Has frames segmented by a server; one thread at a time; a context manager.

    A request is sent once: what fails is an error, never tried again behind the caller's back.

    Args:
        url: ``http://host:8000``, ``grpc://host:8001``, ``https://`` or ``grpcs://``; or a way
            to speak to a server that was opened already.
        model: its name there; None: the only one that `segdeploy package` made.
        version: of the model; empty: the newest.
        pixel_format: of the frames, ``bgr`` or ``rgb``.
        shared_memory: hand pixels over in memory that the server maps too. ``auto``: where the
            server can, which is asked (`note` says why not), and as long as it can; True: or it
            is an error.
        timeout: seconds without an answer until the server counts as too slow.
        encoding: ``raw`` pixels; ``png`` is smaller and exact; ``jpeg`` is smaller still and
            lossy: the server sees other pixels, and class maps differ.
        quality: of JPEG, 1 to 100.
        on_note: given `note` at the moment it comes up: at the beginning, or in a later call.

    Raises:
        InputError: where an argument cannot be.
        MissingDependencyError: for ``grpc://`` without `tritonclient[grpc]`.
        ServerError: where the server is not there, is none, or has no such model.
    """

    def __init__(
        self,
        url: str | Transport,
        model: str | None = None,
        *,
        version: str = "",
        pixel_format: PixelFormat = "bgr",
        shared_memory: bool | Literal["auto"] = "auto",
        timeout: float = 30.0,
        encoding: Encoding = "raw",
        quality: int = 95,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        check_encoding(encoding, quality)
        if pixel_format not in ("bgr", "rgb"):
            raise FrameError(f"pixel format {pixel_format!r}", "'bgr' or 'rgb'")
        if not 0 < timeout < float("inf"):
            raise InputError(f"a timeout of {timeout} s", "seconds, above 0")
        if encoding != "raw" and shared_memory is True:
            raise InputError(f"{encoding} files in shared memory", "raw pixels there, or neither")
        self.pixel_format: PixelFormat = pixel_format
        self._encoding, self._quality = encoding, quality
        self._shared: SharedFrames | None = None
        self.note: str | None = None
        self._on_note = on_note
        self._transport = _opened(url, timeout) if isinstance(url, str) else url
        try:
            self.server = self._transport.server()
            self.model = served_model(self._transport, model, version)
            self._must_share = shared_memory is True
            if shared_memory and encoding == "raw":
                self._share()
        except BaseException:
            self.close()
            raise
        self.spec = self.model.spec

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def shares_memory(self) -> bool:
        """Whether frames and class maps go through shared memory."""
        return self._shared is not None

    @property
    def way(self) -> str:
        """How frames travel now: ``shared memory``, ``raw``, ``png`` or ``jpeg``."""
        return "shared memory" if self.shares_memory else self._encoding

    @property
    def lossy(self) -> bool:
        """Whether the server sees other pixels than it was given."""
        return self._encoding in LOSSY

    def network_size(self, frame: FrameSize) -> FrameSize:
        """The size at which the network sees a frame of size `frame`."""
        return self.spec.resize.network_size(frame)

    @overload
    def __call__(self, frame: Frame) -> Array: ...
    @overload
    def __call__(self, frame: Sequence[Frame]) -> list[Array]: ...
    def __call__(self, frame: Frame | Sequence[Frame]) -> Array | list[Array]:
        """Class map of a frame, or of each frame of a list: those of one size travel together.

        Args:
            frame: uint8 `[H, W, 3]`, at least 32x32.

        Returns:
            The class map `[H, W]`, uint8 up to 256 classes, int32 above; a list where a list was
            given. The arrays are the caller's to keep.

        Raises:
            FrameError: where a frame cannot be segmented.
            ServerError: where the server is gone, too slow, or refuses.
        """
        frames, single = frames_of(frame, on_device=False)
        for one in frames:
            _check(one)
        answers: list[Array] = []
        while len(answers) < len(frames):
            answers += self._segmented(self._next_together(frames[len(answers) :]))
        return answers[0] if single else answers

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Array]]:
        """(frame, class map) of each frame, in order."""
        for frame in frames:
            yield frame, self(frame)

    def close(self) -> None:
        """Hang up, and have the server forget the shared memory; safe twice."""
        if self._shared is not None:
            self._shared.close()
        self._transport.close()

    def __enter__(self) -> TritonSegmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_together(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Those at the beginning that have one size, as many as a request holds."""
        count = 1
        # Files are of different lengths: each travels alone.
        most = min(len(frames), self.model.max_batch) if self._encoding == "raw" else 1
        while count < most and frames[count].shape == frames[0].shape:
            count += 1
        return frames[:count]

    def _segmented(self, frames: Sequence[Frame]) -> list[Array]:
        call = self._call(frames)
        try:
            reply = self._transport.infer(call)
        except RefusedError as error:
            raise self._refused(error, frames) from error
        except BaseException:
            # It may be answered yet, and would be into what the next request reads.
            if self._shared is not None:
                self._shared.abandon()
            raise
        expected = (len(frames), *frames[0].shape[:2])
        if reply.shape != expected:
            raise ServerError(
                f"{self.url} answered with class maps {list(reply.shape)}",
                f"{list(expected)}: the frames' own size",
            )
        values = self._values(reply)
        check_classes(values, self.model, self.url)
        # Each a piece of memory of its own: a caller may keep one and let the others go.
        return [values[0]] if len(frames) == 1 else [one.copy() for one in values]

    def _call(self, frames: Sequence[Frame]) -> Call:
        height, width = frames[0].shape[:2]
        most = len(frames) * height * width * _LARGEST_ITEM
        base = (self.model.name, self.model.version)
        shape = (len(frames), height, width, 3)
        if self._encoding != "raw":
            file = encoded(frames[0], self._encoding, self.pixel_format, self._quality)[None]
            return Call(*base, file.shape, file, self.pixel_format, None, most)
        if self._shared is not None:
            try:
                given, room = self._shared.give(frames, most)
                return Call(*base, shape, given, self.pixel_format, room, most)
            except SharedMemoryError as error:
                self._without_sharing(error)
        pixels = frames[0][None] if len(frames) == 1 else np.stack(frames)
        return Call(*base, shape, np.ascontiguousarray(pixels), self.pixel_format, None, most)

    def _values(self, reply: Reply) -> Array:
        if reply.values is not None:
            return reply.values
        assert self._shared is not None
        return self._shared.taken(reply.shape, DTYPES[reply.datatype])

    def _share(self) -> None:
        try:
            self._shared = SharedFrames(self._transport)
        except SharedMemoryError as error:
            self._without_sharing(error)

    def _without_sharing(self, error: SharedMemoryError) -> None:
        if self._must_share:
            raise ServerError(
                f"no memory can be shared with {self.url}: {error}",
                "a server on this machine that sees the same /dev/shm",
                "leave --shared-memory out; in a container the server needs --ipc=host",
            ) from error
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self.note = f"frames go through the connection, not shared memory ({error})"
        if self._on_note is not None:
            self._on_note(self.note)

    def _refused(self, error: RefusedError, frames: Sequence[Frame]) -> ServerError:
        """In the server's own words, which for packaged models are three sentences as ours."""
        found, _, rest = error.text.partition("\n  expected: ")
        expected, _, step = rest.partition("\n  next: ")
        if error.kind == "missing":
            step = "the server's log says why it is not there any more"
        size = FrameSize(*frames[0].shape[:2])
        return ServerError(
            f"{self.url} refused a frame of {size} for '{self.model.name}': {found.strip()}",
            expected,
            step or "the server's log says more",
        )


def _check(frame: Frame) -> None:
    """FrameError where a frame cannot be segmented: it need not travel to be told so."""
    size = size_of(frame)
    if frame.dtype != np.uint8 or frame.shape[2] != 3:
        raise FrameError(
            f"a frame of {frame.dtype} {list(frame.shape)}",
            "a NumPy array, uint8 [height, width, 3]",
        )
    checked_size(size)


def _opened(url: str, timeout: float) -> Transport:
    address = parse_server(url)
    if address.grpc:
        from segformer_deploy.serve.transport_grpc import GrpcTransport

        return GrpcTransport(address, timeout)
    from segformer_deploy.serve.transport_http import HttpTransport

    return HttpTransport(address, timeout)
