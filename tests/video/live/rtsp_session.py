"""One client's connection to the test server: its requests, what it is sent and what it pushes."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.video.live.h264 import Decoder
from tests.video.live.rtp import H264Receiver

if TYPE_CHECKING:
    from tests.video.live.rtsp_server import RtspServer

# A client with more than this unsent is slow: it misses pictures, up to the next key frame.
MOST_UNSENT = SOCKET_BUFFER = 256 * 1024
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
}
METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER, ANNOUNCE, RECORD"


@dataclass
class Request:
    """An RTSP request; header names in lower case."""

    method: str
    url: str
    headers: dict[str, str]
    body: str


class Session:
    """A connection from its first request to its end."""

    def __init__(
        self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writer, self.playing, self.recording, self.needs_key = writer, False, False, True
        self._server, self._reader = server, reader
        self._id, self._channel = secrets.token_hex(4), 0
        self._receiver: H264Receiver | None = None
        self._decoder = Decoder()
        # The system's own would grow to seconds of video before a slow client is noticed.
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)

    async def run(self) -> None:
        """Answer until the client leaves; its data packets may come between requests."""
        try:
            while not self.writer.is_closing():
                first = await self._reader.readexactly(1)
                if first == b"$":
                    channel, size = struct.unpack(">BH", await self._reader.readexactly(3))
                    self._take(channel, await self._reader.readexactly(size))
                elif first not in b"\r\n":
                    text = first + await self._reader.readuntil(b"\r\n\r\n")
                    request = _parsed(text.decode())
                    size = int(request.headers.get("content-length", 0))
                    request.body = (await self._reader.readexactly(size)).decode()
                    await self._server.flowing.wait()
                    self._answer(request)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client left, or the server is being closed
        finally:
            if self.recording:
                self._server.keep(self._decoder.decode(None))
            self.playing = self.recording = False
            self.writer.close()

    def send(self, packets: Sequence[bytes], *, key: bool) -> bool:
        """One picture's RTP packets; False: this client misses it."""
        if not self.playing or (self.needs_key and not key):
            return False
        if self.writer.transport.get_write_buffer_size() > MOST_UNSENT:
            self.needs_key = True
            self._server.frames_missed += 1
            return False
        self.needs_key = False
        self.writer.write(b"".join(_framed(self._channel, packet) for packet in packets))
        return True

    def report(self, packet: bytes) -> None:
        """An RTCP sender report, which a client gets between its pictures."""
        if self.playing and not self.needs_key:
            self.writer.write(_framed(self._channel + 1, packet))

    def die(self, *, reset: bool) -> None:
        """End the connection without a word."""
        sock = self.writer.get_extra_info("socket")
        if reset and sock.fileno() >= 0:  # it may have been closed a moment ago
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _answer(self, request: Request) -> None:
        status, headers, body = self._outcome(request)
        lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.headers.get('cseq', 0)}"]
        lines += headers
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        if request.method == "PLAY" and status == 200:  # only now: data come after the answer
            self.playing = self.needs_key = True
            self._server.client_plays()
        elif request.method == "TEARDOWN" and status == 200:
            self.playing = False
            self.writer.close()

    def _outcome(self, request: Request) -> tuple[int, list[str], str]:
        """Status, further header lines and body of the answer."""
        session = [f"Session: {self._id};timeout=60"]
        if request.method == "OPTIONS":
            return 200, [f"Public: {METHODS}"], ""
        if not self._server.login.admits(request.method, request.headers.get("authorization", "")):
            refusals = [f"WWW-Authenticate: {text}" for text in self._server.login.challenges()]
            return 401, refusals, ""
        if request.method == "DESCRIBE":
            kind = ["Content-Type: application/sdp", f"Content-Base: {request.url.rstrip('/')}/"]
            return 200, kind, self._server.sdp()
        if request.method == "ANNOUNCE":
            return self._announced(request.body), [], ""
        if request.method == "SETUP":
            return self._set_up(request.headers.get("transport", ""), session)
        if request.method == "RECORD":
            self.recording = self._receiver is not None
            return (200 if self.recording else 455), session, ""
        if request.method == "PAUSE":
            self.playing = False
        known = request.method in METHODS.split(", ") or request.method == "SET_PARAMETER"
        return (200 if known else 501), session, ""

    def _set_up(self, transport: str, session: list[str]) -> tuple[int, list[str], str]:
        if "TCP" not in transport:
            return 461, [], ""
        found = re.search(r"interleaved=(\d+)", transport)
        channel = int(found[1]) if found else 0
        if self._receiver is None:
            self._channel = channel
        answer = f"Transport: RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}"
        return 200, [answer, *session], ""

    def _announced(self, sdp: str) -> int:
        """Get ready for the first H.264 stream of a push; the payload type tells it apart."""
        found = re.search(r"a=rtpmap:(\d+) H264/90000", sdp)
        if not found:
            return 400
        sprop = re.search(r"sprop-parameter-sets=([^;\s]+)", sdp)
        headers = [base64.b64decode(text) for text in sprop[1].split(",")] if sprop else []
        self._receiver, self._decoder = H264Receiver(int(found[1])), Decoder(headers)
        return 200

    def _take(self, channel: int, packet: bytes) -> None:
        """A packet from the client: media on even channels, reports on odd ones."""
        if not self.recording or self._receiver is None or channel % 2:
            return
        picture = self._receiver.push(packet)
        if picture is not None:
            self._server.keep(self._decoder.decode(picture))


def _parsed(text: str) -> Request:
    start, *lines = text.strip().split("\r\n")
    method, url = start.split(" ")[:2]
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Request(method, url, headers, "")


def _framed(channel: int, packet: bytes) -> bytes:
    return struct.pack(">cBH", b"$", channel, len(packet)) + packet
