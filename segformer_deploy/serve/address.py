"""Where a Triton server listens: ``http://host:8000``, ``grpc://host:8001``, and both with TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from segformer_deploy.errors import InputError

Scheme = Literal["http", "https", "grpc", "grpcs"]

PORTS: dict[str, int] = {"http": 8000, "https": 8000, "grpc": 8001, "grpcs": 8001}
"""Triton's own, where the address names none."""
_EXPECTED = "http://HOST[:8000], grpc://HOST[:8001], or https:// and grpcs:// for TLS"
_NEXT = "segdeploy client http://localhost:8000 --source camera:0 --view 8080"


@dataclass(frozen=True)
class ServerAddress:
    """A server's address, taken apart.

    Attributes:
        scheme: how it is spoken to.
        host, port: where; an IPv6 host without brackets.
        base: what a proxy wants before Triton's own paths, without a slash at its end.
    """

    scheme: Scheme
    host: str
    port: int
    base: str = ""

    @property
    def grpc(self) -> bool:
        return self.scheme in ("grpc", "grpcs")

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "grpcs")

    @property
    def place(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.base}"


def parse_server(text: str) -> ServerAddress:
    """Take an address apart; InputError where it is none."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise InputError(f"the server's address {text!r} ({error})", _EXPECTED, _NEXT) from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS or not parts.hostname:
        raise InputError(f"the server's address {text!r}", _EXPECTED, _NEXT)
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "a server's address with a user or a password",
            "an address alone: Triton knows neither",
            "use TLS and a private network, or a proxy that lets this machine in",
        )
    if parts.query or parts.fragment or (parts.path.strip("/") and scheme.startswith("grpc")):
        raise InputError(f"the server's address {text!r}: more than an address", _EXPECTED, _NEXT)
    kind: Scheme = scheme  # type: ignore[assignment]
    return ServerAddress(kind, parts.hostname, port or PORTS[scheme], parts.path.rstrip("/"))
