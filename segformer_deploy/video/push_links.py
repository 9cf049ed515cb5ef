"""How pictures are encoded for the network, and the connections that FFmpeg makes itself."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av
import av.error
from av.video.frame import PictureType

from segformer_deploy.errors import OutputError
from segformer_deploy.spec import FrameSize

CLOCK = 90_000
"""Ticks per second of the times that pictures carry here: RTP's and MPEG-TS's own unit."""

SEND_BUFFER = 256 << 10
"""Bytes, half a second at 4 Mbit/s: more of them on their way would only be delay."""
SILENCE_MS = 4000
"""How long a peer may take nothing in before its connection has failed."""

_KEY_EVERY = 2 * CLOCK
_BT709, _LIMITED = 1, 1  # ITU-T H.273
_GLOBAL_HEADER = 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER
_X264 = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "crf": "21",
    # A burst fills the network's buffers, and every later picture waits behind it.
    "maxrate": "12M",
    "bufsize": "6M",
    "bf": "0",
    "g": "600",  # key pictures come by time, see `key_now`
    "forced-idr": "1",
}
_MUXERS = {"rtmp": "flv", "srt": "mpegts", "udp": "mpegts"}
_OPTIONS = {
    "flv": {"flvflags": "no_duration_filesize", "flush_packets": "1"},
    "mpegts": {"flush_packets": "1"},
}


class LinkError(Exception):
    """The receiver cannot be reached, refuses, or has gone away; says which, in a few words."""


@dataclass(frozen=True)
class LinkSettings:
    """What a connection is made for.

    Attributes:
        url: where to, with user and password where there are any.
        size: of the pictures; both sides even.
        rate: pictures per second, about: the encoder's rate control wants to know.
    """

    url: str
    size: FrameSize
    rate: Fraction


class Link(ABC):
    """One connection to a receiver. Used by one thread; only `abort` may come from another."""

    @abstractmethod
    def __init__(self, settings: LinkSettings) -> None: ...

    @abstractmethod
    def open(self) -> None:
        """Connect; LinkError where that fails."""

    @abstractmethod
    def send(self, picture: Any) -> None:
        """Encode and send an `av.VideoFrame` whose `pts` counts 90 kHz; LinkError."""

    @abstractmethod
    def close(self) -> None:
        """Say goodbye, in less than half a second."""

    @abstractmethod
    def abort(self) -> None:
        """Make an `open` or a `send` that waits for the network fail at once."""


class KeyTimes:
    """Which pictures must be key pictures: the first, and then one every 2 s.

    By time, not by number: where a device segments 5 pictures a second of a camera's 30, a
    number chosen for the camera's rate would let a new viewer wait for six times as long.
    """

    def __init__(self) -> None:
        self._next: int | None = None

    def mark(self, picture: Any) -> None:
        """Ask for a key picture where it is time for one."""
        if self._next is None or picture.pts >= self._next:
            self._next = picture.pts + _KEY_EVERY
            picture.pict_type = PictureType.I
        else:
            picture.pict_type = PictureType.NONE


def prepare(context: Any, settings: LinkSettings) -> None:
    """Set an H.264 encoder up for least delay: no B-pictures, yuv420p, BT.709, limited range."""
    context.width, context.height = settings.size.width, settings.size.height
    context.pix_fmt = "yuv420p"
    context.framerate = settings.rate
    context.time_base = Fraction(1, CLOCK)
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    context.thread_count = 2  # the other cores have a network to run
    context.options = dict(_X264)


class Encoder:
    """H.264 without a container.

    Attributes:
        headers: the parameter sets, as a byte stream; packets do not repeat them.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._context: Any = av.CodecContext.create("libx264", "w")
        prepare(self._context, settings)
        self._context.flags |= _GLOBAL_HEADER
        try:
            self._context.open()
        except av.error.FFmpegError as error:
            raise OutputError(
                f"pictures of {settings.size} cannot be encoded as H.264: {error.strerror}",
                "pictures of at most 16384 pixels a side",
                "write a folder of PNG files instead",
            ) from error
        self._keys = KeyTimes()
        self.headers = bytes(self._context.extradata or b"")

    def encode(self, picture: Any) -> Iterator[tuple[bytes, int, bool]]:
        """Data (byte stream), time in ticks of 90 kHz, and whether it is a key picture."""
        self._keys.mark(picture)
        for packet in self._context.encode(picture):
            yield bytes(packet), int(packet.pts), bool(packet.is_keyframe)


class ContainerLink(Link):
    """RTMP, SRT, and MPEG-TS over UDP: FFmpeg's own network code.

    PyAV opens and closes the connection with Python's lock held, and takes no deadline for an
    output: except for UDP, which waits for nobody, this belongs into a process of its own.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._scheme = urlsplit(settings.url).scheme
        self._container: Any = None
        self._stream: Any = None
        self._keys = KeyTimes()

    def open(self) -> None:
        muxer = _MUXERS[self._scheme]
        with _explained(self._scheme):
            url = _udp(self._settings.url) if self._scheme == "udp" else self._settings.url
            self._container = av.open(url, "w", format=muxer, options=dict(_OPTIONS[muxer]))
            self._stream = self._container.add_stream("libx264", rate=self._settings.rate)
            prepare(self._stream.codec_context, self._settings)
            self._container.start_encoding()

    def send(self, picture: Any) -> None:
        with _explained():
            self._keys.mark(picture)
            for packet in self._stream.encode(picture):
                self._container.mux(packet)

    def close(self) -> None:
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError):
                self._container.close()

    def abort(self) -> None:
        """Nothing to do: UDP does not wait."""


def _udp(url: str) -> str:
    """The address with a number in place of a name, and with whole TS packets in a datagram."""
    parts = urlsplit(url)
    # Here, because looking a name up may take seconds, and FFmpeg would hold Python's lock.
    number = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)[0][4][0]
    place = f"[{number}]" if ":" in str(number) else number
    query = parts.query
    if "pkt_size=" not in query:
        # Seven TS packets: what every receiver expects, and fits into an Ethernet frame.
        query += ("&" if query else "") + "pkt_size=1316"
    return f"udp://{place}:{parts.port}?{query}"


@contextmanager
def _explained(scheme: str = "") -> Iterator[None]:
    """Turn FFmpeg's errors into `LinkError`; their own text holds the address, password and all."""
    try:
        yield
    except av.error.ProtocolNotFoundError:
        raise LinkError(f"this build of PyAV has no {scheme}") from None
    except (av.error.FFmpegError, OSError) as error:
        raise LinkError(error.strerror or "the connection broke") from None
