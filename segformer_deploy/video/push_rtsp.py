"""Publishing H.264 to an RTSP server: ANNOUNCE, SETUP, RECORD (RFC 2326), RTP on the same socket.

FFmpeg has an RTSP muxer too, but PyAV writes a container's header and trailer with Python's
lock held, and for RTSP that header is the whole conversation with the server: a server that
accepts a connection and then says nothing would stop every thread of the process. On a socket of
our own each call has a deadline, waiting holds no lock, and another thread can end it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, unquote, urlsplit

from segformer_deploy.video.push_links import (
    SEND_BUFFER,
    SILENCE_MS,
    Encoder,
    Link,
    LinkError,
    LinkSettings,
)
from segformer_deploy.video.push_rtp import Packets, parameter_sets, session_description, split

_ANSWER_S = 3.0
_SEND_S = 2.0
_KEEP_ALIVE_S = 20.0  # servers forget a session after 60 s unless they say otherwise
_REPORT_S = 5.0  # RFC 3550, 6.2: the usual interval of sender reports
_GOODBYE_S = 0.3


class RtspLink(Link):
    """One connection to an RTSP server, over TCP."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._url = urlsplit(settings.url)
        self._socket: socket.socket | None = None
        self._encoder = Encoder(settings)
        self._rtp = Packets()
        self._sets = b""
        self._asked = self._reported = 0.0

    def open(self) -> None:
        with _explained():
            deadline = time.monotonic() + _ANSWER_S
            address = (self._url.hostname or "", self._url.port or 554)
            self._socket = socket.create_connection(address, _ANSWER_S)
            _keep_short(self._socket)
            self._talk = Conversation(self._socket, self._url, deadline)
            self._talk.ask("OPTIONS")
            sets = parameter_sets(self._encoder.headers)
            self._sets = b"".join(b"\0\0\1" + one for one in sets)
            peer = self._socket.getpeername()[0]
            self._talk.ask("ANNOUNCE", body=session_description(peer, sets))
            self._talk.ask(
                "SETUP",
                {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"},
                target="/streamid=0",
            )
            self._talk.ask("RECORD", {"Range": "npt=0.000-"})
            self._socket.settimeout(_SEND_S)
            self._asked = time.monotonic()

    def send(self, picture: object) -> None:
        with _explained():
            assert self._socket is not None
            for data, pts, key in self._encoder.encode(picture):
                units = split(self._sets + data if key else data)
                self._socket.sendall(self._rtp.of(units, pts))
            now = time.monotonic()
            if now - self._reported > _REPORT_S:
                self._reported = now
                self._socket.sendall(self._rtp.report())
            if now - self._asked > _KEEP_ALIVE_S:
                self._asked = now
                self._socket.sendall(self._talk.request("OPTIONS"))
            self._take_in()

    def _take_in(self) -> None:
        """Throw away what the server says: reports and answers to `OPTIONS`.

        Left unread it would fill the server's side until the server no longer reads ours.
        """
        assert self._socket is not None
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            while self._socket.recv(65536):
                pass
            raise LinkError("the server ended the connection")
        self._socket.settimeout(_SEND_S)

    def close(self) -> None:
        if self._socket is None:
            return
        with suppress(OSError):
            self._socket.settimeout(_GOODBYE_S)
            self._socket.sendall(self._talk.request("TEARDOWN"))
            # Closing while something is unread would reset the connection, and the server
            # would lose the last pictures: say that we are done, and listen until it is too.
            self._socket.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _GOODBYE_S
            while time.monotonic() < deadline and self._socket.recv(65536):
                pass
        self._socket.close()

    def abort(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a socket raises into a `LinkError`."""
    try:
        yield
    except TimeoutError:
        raise LinkError("it does not answer in time") from None
    except OSError as error:
        raise LinkError(error.strerror or str(error)) from None


def _keep_short(connection: socket.socket) -> None:
    """A picture goes at once or not at all; a peer that lost its power is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)


class Conversation:
    """Requests and their answers, with Basic or Digest authentication where the server asks."""

    def __init__(self, connection: socket.socket, url: SplitResult, deadline: float) -> None:
        self._socket = connection
        self._deadline = deadline
        place = url.netloc.rpartition("@")[2]
        self._base = f"rtsp://{place}{url.path}" + (f"?{url.query}" if url.query else "")
        self._user = unquote(url.username or "")
        self._password = unquote(url.password or "")
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._number = 0
        self._session = ""
        self._unread = b""

    def ask(
        self, method: str, headers: dict[str, str] | None = None, target: str = "", body: str = ""
    ) -> None:
        """Send a request and wait for its answer; LinkError where it is not 200."""
        for attempt in (1, 2):
            self._socket.sendall(self.request(method, headers, target, body))
            status, reason, found = self._answer()
            if status == 401 and attempt == 1 and self._user:
                self._challenge = _challenge(found)
                continue
            break
        if status != 200:
            raise LinkError(f"it refuses {method}: {status} {reason}")
        session = dict(found).get("session", "")
        self._session = session.partition(";")[0].strip() or self._session

    def request(
        self, method: str, headers: dict[str, str] | None = None, target: str = "", body: str = ""
    ) -> bytes:
        """The bytes of a request."""
        self._number += 1
        url = self._base + target
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: segdeploy"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._challenge is not None:
            lines.append(f"Authorization: {self._authorization(method, url)}")
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body.encode())}"]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def _authorization(self, method: str, url: str) -> str:
        assert self._challenge is not None
        scheme, asked = self._challenge
        if scheme == "basic":
            both = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(both).decode()}"
        # RFC 2617, 3.2.2, without quality of protection, as RTSP servers ask for it.
        name = asked.get("algorithm", "MD5")
        kind = "sha256" if name.upper() == "SHA-256" else "md5"

        def digest(text: str) -> str:
            # What RFC 2069 asks for, on systems too that allow MD5 for nothing else.
            return hashlib.new(kind, text.encode(), usedforsecurity=False).hexdigest()

        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        secret = digest(f"{self._user}:{realm}:{self._password}")
        response = digest(f"{secret}:{nonce}:{digest(f'{method}:{url}')}")
        parts = {
            "username": self._user, "realm": realm, "nonce": nonce, "uri": url,
            "response": response,
        }  # fmt: skip
        if "opaque" in asked:
            parts["opaque"] = asked["opaque"]
        text = ", ".join(f'{key}="{value}"' for key, value in parts.items())
        return f"Digest {text}" + (f", algorithm={name}" if "algorithm" in asked else "")

    def _answer(self) -> tuple[int, str, list[tuple[str, str]]]:
        while b"\r\n\r\n" not in self._unread:
            self._receive()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *rest = head.decode("utf-8", "replace").split("\r\n")
        match = re.match(r"RTSP/\d\.\d (\d{3}) ?(.*)", first)
        if match is None:
            raise LinkError("it does not speak RTSP")
        pairs = [line.partition(":")[::2] for line in rest]
        headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
        length = dict(headers).get("content-length", "0")
        body = int(length) if length.isascii() and length.isdigit() else 0
        while len(self._unread) < body:
            self._receive()
        self._unread = self._unread[body:]
        return int(match[1]), match[2], headers

    def _receive(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0 or len(self._unread) > 1 << 16:
            raise LinkError("it does not answer in time")
        self._socket.settimeout(left)
        data = self._socket.recv(4096)
        if not data:
            raise LinkError("it ended the connection")
        self._unread += data


def _challenge(headers: list[tuple[str, str]]) -> tuple[str, dict[str, str]] | None:
    """The best of the ways in which a server wants to know who we are."""
    ways: dict[str, dict[str, str]] = {}
    for name, value in headers:
        scheme, _, rest = value.partition(" ")
        if name == "www-authenticate" and scheme.lower() in ("basic", "digest"):
            found = re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', rest)
            ways.setdefault(scheme.lower(), {key: one or other for key, one, other in found})
    for scheme in ("digest", "basic"):
        if scheme in ways:
            return scheme, ways[scheme]
    return None
