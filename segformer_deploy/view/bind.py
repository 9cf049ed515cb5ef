"""Where the page listens: `Bind`, how it is written, and the socket address that it means."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any

from segformer_deploy.errors import InputError, OutputError

LOOPBACK = "127.0.0.1"
_FORM = re.compile(r"(?:(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9_.-]*)):)?([0-9]{1,5})")
_EXPECTED = "a port (8080), or an address and a port (0.0.0.0:8080, [::]:8080)"


@dataclass(frozen=True)
class Bind:
    """An address and a port to listen on; port 0 lets the system choose one.

    Raises:
        InputError: no address, or a port beyond 65535.
    """

    host: str = LOOPBACK
    port: int = 8080

    def __post_init__(self) -> None:
        if not self.host:
            raise InputError("no address to listen on", "an address, for example 127.0.0.1")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port {self.port}", "a port from 0 to 65535", "--view 8080")

    def __str__(self) -> str:
        return f"{in_url(self.host)}:{self.port}"


def parse_bind(text: str) -> Bind:
    """Read ``8080``, ``:8080`` (both: this machine only), ``0.0.0.0:8080`` or ``[::]:8080``.

    Raises:
        InputError: it reads as none of them.
    """
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise InputError(f"'{text}' is no place for a page", _EXPECTED, "--view 8080")
    return Bind(found[1] or found[2] or LOOPBACK, int(found[3]))


def in_url(host: str) -> str:
    """The host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def socket_address(bind: Bind) -> tuple[socket.AddressFamily, Any]:
    """The address family and socket address to bind to.

    Raises:
        OutputError: the host's name has no address.
    """
    try:
        found = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"the page cannot listen on {bind}: {reason}",
            "an address of this machine",
            f"--view {bind.port} for this machine only, --view 0.0.0.0:{bind.port} for its network",
        ) from error
    family, _, _, _, address = found[0]
    return family, address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that numeric address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def reachable_host(host: str) -> str:
    """What others may call this machine, where it listens on all of its addresses.

    The address by which it would leave its network, else its name. Nothing is sent.
    """
    try:
        if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            return host
    except ValueError:
        return host
    # Documentation's own networks (RFC 5737, RFC 3849): routed as any foreign address, used by
    # nobody. "Connecting" UDP only chooses a route.
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return socket.gethostname()
