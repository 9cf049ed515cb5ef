"""Who may use the test server: Basic (RFC 7617) and Digest (RFC 2617 with MD5, as cameras do)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

REALM = "segdeploy test camera"


class Login:
    """The one user of a server, or nobody asked where the user is None."""

    def __init__(self, user: str | None, password: str | None, schemes: tuple[str, ...]) -> None:
        self._user, self._password = user, password or ""
        self._schemes, self._nonce = schemes, secrets.token_hex(16)

    def challenges(self) -> list[str]:
        """The values of WWW-Authenticate to refuse with."""
        asked = {
            "digest": f'Digest realm="{REALM}", nonce="{self._nonce}"',
            "basic": f'Basic realm="{REALM}"',
        }
        return [asked[scheme] for scheme in self._schemes]

    def admits(self, method: str, authorization: str) -> bool:
        """Whether a request with this Authorization header ("": none) may pass."""
        if self._user is None:
            return True
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() not in self._schemes:
            return False
        if scheme.lower() == "basic":
            return rest == base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        given = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        secret = _md5(f"{self._user}:{REALM}:{self._password}")
        asked = _md5(f"{method}:{given.get('uri', '')}")
        return (
            given.get("username") == self._user
            and given.get("nonce") == self._nonce
            and given.get("response") == _md5(f"{secret}:{self._nonce}:{asked}")
        )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
