"""What the text after ``--source`` names: a file, a camera, a stream, streets, or stdin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from segformer_deploy.errors import MediaError

AddressKind = Literal["file", "stdin", "camera", "csi", "gst", "url", "streets"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "udp", "tcp")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DEVICE = re.compile(r"/dev/video([0-9]{1,4})")
_NUMBER = re.compile(r"[0-9]{1,4}")
_USER = re.compile(r"(://[^\s:@/?#]*:)(\S*)@")
_WHOLE = re.compile(r"(^[A-Za-z][A-Za-z0-9+.-]*://[^:@/?#]*:)(.*)@", re.DOTALL)
_SECRET = re.compile(
    r"""(?i)([\w-]*(?:pas\w*|pwd?|secret|token|auth|key|streamid)\s*=\s*)"""
    r"""("[^"]*"|'[^']*'|[^&\s;"']+)"""
)
_LEFT_OUT = "***"
KINDS = (
    "a video, a picture, a folder of pictures, camera:0, /dev/video0, csi:0, gst:PIPELINE, "
    "rtsp://…, http://…, test: or - (raw frames on stdin)"
)


@dataclass(frozen=True)
class Address:
    """A source, taken apart.

    Attributes:
        kind: how it is opened.
        text: what opens it: a path, a URL, a pipeline, or the streets' options.
        name: what is shown of it: a password is left out.
        number: of the camera.
    """

    kind: AddressKind
    text: str
    name: str
    number: int = 0

    @property
    def comes_back(self) -> bool:
        """Whether it can be opened again and then goes on where the world is by now."""
        return self.kind in ("camera", "csi", "gst", "url")

    @property
    def waits(self) -> bool:
        """Whether it keeps its next frame until that is asked for."""
        return self.kind in ("file", "stdin")


def parse_address(text: str | Path) -> Address:
    """Take a source's name apart; MediaError where it names nothing that can be opened."""
    named = str(text)
    if not named:
        raise MediaError("the source has no name", KINDS)
    if named == "-":
        return Address("stdin", "-", "stdin")
    if device := _DEVICE.fullmatch(named):
        return Address("camera", named, named, int(device[1]))
    if _NUMBER.fullmatch(named) and not _exists(named):  # as other tools call a camera
        return Address("camera", named, f"camera:{named}", int(named))
    prefix, colon, rest = named.partition(":")
    if url := _URL.match(named):
        return _url(named, url[1].lower())
    # A file of that very name comes first: a colon is a letter like others.
    if colon and not _exists(named):
        if prefix in ("camera", "csi"):
            return _numbered(prefix, rest, named)
        if prefix == "gst":
            return Address("gst", _pipeline(rest), redacted(named))
        if prefix == "test":
            return Address("streets", rest, named)
    return Address("file", named, named)


def redacted(text: str) -> str:
    """`text` without the passwords in it: ``rtsp://user:***@host/path``, ``?token=***``.

    A password that was not escaped may hold any letter: all up to the last @ is left out.
    """
    # In a pipeline an address ends at a space; by itself it may hold one.
    found = _WHOLE if _WHOLE.match(text) else _USER
    return _SECRET.sub(rf"\1{_LEFT_OUT}", found.sub(rf"\1{_LEFT_OUT}@", text))


def without_secrets(text: str, url: str) -> str:
    """A message about `url` from somebody else's library, without its passwords."""
    text = text.replace(url, redacted(url))
    if whole := _WHOLE.match(url):
        for secret in (whole[2], unquote(whole[2])):
            # One or two letters would black out half of the message, and protect nothing.
            text = text.replace(secret, _LEFT_OUT) if len(secret) > 2 else text
    return redacted(text)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a file's name, or a zero byte in it
        return False


def _url(text: str, scheme: str) -> Address:
    if scheme not in SCHEMES:
        raise MediaError(
            f"{redacted(text)} begins with {scheme}://", f"one of {', '.join(SCHEMES)}", KINDS
        )
    try:
        parts = urlsplit(text)
        # Reading the port is what checks it.
        whole = bool(parts.netloc) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole:
        raise MediaError(
            f"{redacted(text)} is not a whole address",
            f"{scheme}://host:port/path",
            "write an @ or a / in a password as %40 or %2F",
        )
    return Address("url", text, redacted(text))


def _numbered(prefix: str, rest: str, named: str) -> Address:
    if not _NUMBER.fullmatch(rest):
        raise MediaError(f"{named} has no number", f"{prefix}:0", "ls /dev/video* lists cameras")
    return Address("camera" if prefix == "camera" else "csi", rest, named, int(rest))


def _pipeline(rest: str) -> str:
    if not rest.strip():
        raise MediaError(
            "gst: names no pipeline",
            "the elements from the source to raw video",
            'gst:"videotestsrc is-live=true", as for gst-launch-1.0',
        )
    return rest
