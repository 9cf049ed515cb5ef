"""Sending to one viewer, who may be slow, stalled, or gone."""

from __future__ import annotations

import select
import socket

STALL_S = 20.0
"""A viewer that takes nothing for so long is given up."""
_BUFFER = 64 << 10
_PIECE = 128 << 10


class Sender:
    """Sends on a connection, with a limit on standing still.

    Args:
        live: keep the system's buffer small. What lies in it will be sent, however old it has
            become by then.
    """

    def __init__(self, connection: socket.socket, *, live: bool, stall_s: float = STALL_S) -> None:
        self._socket = connection
        connection.settimeout(stall_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if live:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def send(self, data: bytes) -> None:
        """Send all of it; OSError (TimeoutError) where the viewer is gone or stands still."""
        # Piece by piece: `sendall` would count the whole time, and a slow viewer is welcome.
        rest = memoryview(data)
        while rest:
            rest = rest[self._socket.send(rest[:_PIECE]) :]

    def gone(self) -> bool:
        """Whether the viewer has hung up; what it says meanwhile is ignored."""
        poll = select.poll()  # unlike select, for any number of open files
        poll.register(self._socket, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self._socket.recv(4096)
        except OSError:
            return True
