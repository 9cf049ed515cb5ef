"""One connection's requests: checked, routed, answered; nothing is ever printed."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from segformer_deploy.view.access import How, RefusedError

if TYPE_CHECKING:
    from segformer_deploy.view.server import ViewServer

LARGEST_BODY = 4096
_MOST_FIELDS = 16
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Handler(BaseHTTPRequestHandler):
    """Answers requests by `routes.answer`; every one must pass `Access.check` first."""

    protocol_version = "HTTP/1.1"
    timeout = 15.0
    server: ViewServer
    how: How = "host"
    begun = False
    url: SplitResult
    query: dict[str, list[str]]

    def handle_one_request(self) -> None:
        self.begun = False
        self.server.await_request(self.connection, True)
        self.connection.settimeout(self.timeout)
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        from segformer_deploy.view import routes

        try:
            self._check()
            body = self._body()
            self.server.await_request(self.connection, False)
            routes.answer(self, self.server.site, body)
        except RefusedError as refused:
            self.refuse(refused)
        except OSError:
            self.close_connection = True  # gone, or stalled
        except Exception as error:
            self.refuse(RefusedError(500, f"An error of segdeploy: {error!r}."))

    def _check(self) -> None:
        if self.request_version == "HTTP/0.9":
            self.request_version = "HTTP/1.0"  # else it would be answered without a head
            raise RefusedError(400, "This is no HTTP that is spoken here.")
        try:
            self.url = urlsplit(self.path)
            self.query = parse_qs(self.url.query, max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise RefusedError(400, "This address does not read.") from None
        self.how = self.server.site.access.check(self.headers, self.query)

    def _body(self) -> bytes:
        """The body of a POST; of other methods it is not read, and the connection ends."""
        declared = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(declared) > 1:
            raise RefusedError(411, "A body needs one Content-Length.")
        length = declared[0].strip() if declared else "0"
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise RefusedError(400, "The Content-Length is no number.")
        if self.command != "POST":
            if int(length):
                self.close_connection = True
            return b""
        # A form of another site can post, but not with a header of its own making: for that
        # its browser asks first (CORS preflight), and nobody answers.
        if self.headers.get("X-Segdeploy") != "1":
            raise RefusedError(403, "This needs the header X-Segdeploy: 1.")
        if int(length) > LARGEST_BODY:
            raise RefusedError(413, f"At most {LARGEST_BODY} bytes are read.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(400, "The body is cut off.")
        return body

    def begin(
        self,
        kind: str,
        *,
        status: int = 200,
        length: int | None = None,
        headers: dict[str, str] | None = None,
        cache: str = "no-store",
    ) -> None:
        """Send the head of an answer; without a `length` it lasts as long as the connection."""
        self.begun = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", cache)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        # Whoever was given the token may show the stream on a page of his own.
        given = self.how in ("query", "bearer")
        policy = "cross-origin" if given else "same-origin"
        self.send_header("Cross-Origin-Resource-Policy", policy)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is None:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def reply(self, kind: str, data: bytes, **more: Any) -> None:
        """A whole answer at once."""
        self.begin(kind, length=len(data), **more)
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, data: Any, status: int = 200) -> None:
        self.reply("application/json", json.dumps(data).encode(), status=status)

    def refuse(self, refused: RefusedError) -> None:
        """Say the sentence and end the connection: a body may still be on its way."""
        self.close_connection = True
        self.how = "host"
        if self.begun:
            return  # a second head would only be taken for a part of the answer
        try:
            text = f"{refused.sentence}\n".encode()
            self.reply("text/plain; charset=utf-8", text, status=refused.status)
        except OSError:
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses by itself: no HTTP, a line too long, a method."""
        if getattr(self, "request_version", "HTTP/0.9") == "HTTP/0.9":
            self.request_version = "HTTP/1.0"  # as above
        self.refuse(RefusedError(code, f"{HTTPStatus(code).phrase}."))

    def version_string(self) -> str:
        return "segdeploy"

    def log_message(self, format: str, *args: Any) -> None:
        """Standard error belongs to the run."""
