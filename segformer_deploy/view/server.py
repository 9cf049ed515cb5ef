"""The HTTP server: a thread for each connection, a limit on them, and an end in good time."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
import time
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from segformer_deploy.errors import OutputError
from segformer_deploy.view.bind import Bind, socket_address
from segformer_deploy.view.handler import Handler
from segformer_deploy.view.site import MOST_VIEWERS, Site

MOST_CONNECTIONS = 2 * MOST_VIEWERS
REQUEST_S = 15.0
"""A request must have arrived whole within this; a connection may be idle no longer."""
_POLL_S = 0.1
_FULL_TEXT = b"Too many connections: try again later.\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_FULL_TEXT), _FULL_TEXT)
)


class ViewServer(ThreadingHTTPServer):
    """Serves one `Site`.

    Raises:
        OutputError: the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 64
    # A second server on the same port must be refused, not share its visitors.
    allow_reuse_port = False

    def __init__(self, bind: Bind, site: Site) -> None:
        self.site = site
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._deadlines: dict[socket.socket, float] = {}
        self.address_family, address = socket_address(bind)
        try:
            super().__init__(address, Handler)
        except OSError as error:
            raise _listen_error(bind, error) from error
        self._loop = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="segdeploy view server", daemon=True
        )

    def start(self) -> None:
        self._loop.start()

    def server_bind(self) -> None:
        # HTTPServer's own would ask for the host's full name: without a name server, for long.
        if self.address_family == socket.AF_INET6:
            # [::] means all addresses, those of IPv4 too, whatever the system's default is.
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="segdeploy view connection",
            daemon=True,
        )
        with self._lock:
            full = len(self._open) >= MOST_CONNECTIONS
            if not full:
                self._open[request] = thread
        if full:
            request.setblocking(False)
            with suppress(OSError):
                request.send(_FULL)
            self.shutdown_request(request)
            return
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def await_request(self, request: socket.socket, awaiting: bool) -> None:
        """Note that a connection is waiting for a request, or that the request has arrived."""
        with self._lock:
            if awaiting:
                self._deadlines[request] = time.monotonic() + REQUEST_S
            else:
                self._deadlines.pop(request, None)

    def service_actions(self) -> None:
        # Somebody who sends one byte now and then would keep a connection for ever.
        now = time.monotonic()
        with self._lock:
            late = [one for one, until in self._deadlines.items() if until < now]
            for one in late:
                del self._deadlines[one]
        for one in late:
            _hang_up(one)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that hung up is no news."""

    def close(self, until_s: float) -> None:
        """Stop listening, hang up on everybody, wait for the threads until that time."""
        if self._loop.is_alive():
            self.shutdown()
            self._loop.join(max(0.0, until_s - time.monotonic()))
        self.server_close()
        with self._lock:
            threads = list(self._open.items())
        for connection, _ in threads:
            _hang_up(connection)
        for _, thread in threads:
            with suppress(RuntimeError):  # never started
                thread.join(max(0.0, until_s - time.monotonic()))


def _hang_up(connection: socket.socket) -> None:
    # Its thread closes it: a number closed here might be somebody else's by the time it looks.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _listen_error(bind: Bind, error: OSError) -> OutputError:
    found = f"the page cannot listen on {bind}"
    other = Bind(bind.host, bind.port + 1 if bind.port < 65535 else 8080)
    if error.errno == errno.EADDRINUSE:
        return OutputError(
            f"{found}: port {bind.port} is in use",
            "a port that no other program listens on",
            f"--view {other}, or --view {Bind(bind.host, 0)} for any free port",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputError(
            f"{found}: ports below 1024 are reserved for the system",
            "a port from 1024 to 65535",
            f"--view {Bind(bind.host, 8080)}",
        )
    return OutputError(
        f"{found}: {error.strerror or error}",
        "an address of this machine",
        f"--view {bind.port} for this machine only, --view 0.0.0.0:{bind.port} for its network",
    )
