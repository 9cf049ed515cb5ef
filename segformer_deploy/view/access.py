"""Who may look: a token, or on this machine alone a Host header that no foreign page can send."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Literal

from segformer_deploy.errors import InputError
from segformer_deploy.view.bind import in_url

How = Literal["host", "query", "cookie", "bearer"]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,256}")
_COOKIE_S = 30 * 24 * 3600


class RefusedError(Exception):
    """A request that gets `status` and one plain sentence instead of what it asked for."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def new_token() -> str:
    """A token of 128 random bits, in letters that stand in a URL."""
    return secrets.token_urlsafe(16)


def check_token(token: str) -> str:
    """The token, where it can stand in a URL and a cookie and is not guessed at once.

    Raises:
        InputError: it cannot.
    """
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"a token of {len(token)} characters",
            "8 to 256 letters, digits and the signs . _ ~ -",
            "leave the token out: a good one is made",
        )
    return token


@dataclass(frozen=True)
class Access:
    """The rule of one server.

    Attributes:
        token: must come with every request; None where only this machine can connect.
        host: what the server is bound to, allowed as a Host header.
        port: names the cookie: cookies do not tell two ports of one host apart.
    """

    token: str | None
    host: str
    port: int

    def check(self, headers: Message, query: Mapping[str, Sequence[str]]) -> How:
        """How the request is allowed; RefusedError (403) where it is not."""
        if self.token is None:
            self._check_host(headers)
            how: How = "host"
        else:
            how = self._matching(headers, query)
        if how in ("host", "cookie"):
            _check_site(headers)
        return how

    def cookie(self) -> str:
        """The value of a Set-Cookie header that lets the page's own requests in."""
        # Strict: another site's page can neither embed nor command this one in our name.
        return (
            f"{self._cookie_name}={self.token}; HttpOnly; SameSite=Strict; Path=/; "
            f"Max-Age={_COOKIE_S}"
        )

    @property
    def _cookie_name(self) -> str:
        return f"segdeploy_{self.port}"

    def _check_host(self, headers: Message) -> None:
        # DNS rebinding: a foreign page whose name suddenly leads to 127.0.0.1 still sends that
        # name. Any port is right: a tunnel (ssh -L) may begin at another one than ours.
        given = headers.get_all("Host") or []
        found = _HOST.fullmatch(given[0].strip()) if len(given) == 1 else None
        allowed = ("localhost", "127.0.0.1", "[::1]", in_url(self.host).lower())
        if found is None or found[1].lower() not in allowed:
            raise RefusedError(
                403, "This page answers to localhost only: open it by the address it was given."
            )

    def _matching(self, headers: Message, query: Mapping[str, Sequence[str]]) -> How:
        assert self.token is not None
        right = self.token.encode()
        allowed: How | None = None
        for how, given in self._given(headers, query):
            # All are compared, each in constant time.
            if hmac.compare_digest(given.encode("utf-8", "replace"), right):
                allowed = allowed or how
        if allowed is None:
            raise RefusedError(
                403, "This page needs its token: open the address that segdeploy printed."
            )
        return allowed

    def _given(
        self, headers: Message, query: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[How, str]]:
        for value in query.get("token", ()):
            yield "query", value
        for value in headers.get_all("Authorization") or ():
            scheme, _, rest = value.partition(" ")
            if scheme.lower() == "bearer":
                yield "bearer", rest.strip()
        for line in headers.get_all("Cookie") or ():
            for piece in line.split(";"):
                name, _, value = piece.strip().partition("=")
                if name == self._cookie_name:
                    yield "cookie", value


def _check_site(headers: Message) -> None:
    # Sent by browsers, to addresses that they trust: another site's page must not draw on the
    # board even where it could not read the answer. Following a link to the page is fine.
    site, mode = headers.get("Sec-Fetch-Site", ""), headers.get("Sec-Fetch-Mode", "")
    if site == "cross-site" and mode != "navigate":
        raise RefusedError(403, "Other sites may not use this page.")
