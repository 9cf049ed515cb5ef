"""What each address answers."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from segformer_deploy.errors import OutputError
from segformer_deploy.view import metrics, push
from segformer_deploy.view.access import RefusedError
from segformer_deploy.view.handler import Handler
from segformer_deploy.view.sender import Sender
from segformer_deploy.view.site import Site

_JSON = "application/json"
_RECORDINGS = "/recordings/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.mp4")
_PIECE = 1 << 20


def answer(handler: Handler, site: Site, body: bytes) -> None:
    """Answer one request that has been checked."""
    path = handler.url.path
    if path == "/record":
        if handler.command != "POST":
            raise RefusedError(405, "This address takes POST only.")
        _record(handler, site, body)
    elif handler.command == "POST":
        raise RefusedError(405, "This address cannot be posted to.")
    elif path in _GET:
        _GET[path](handler, site)
    elif path.startswith(_RECORDINGS):
        _recording(handler, site, unquote(path[len(_RECORDINGS) :]))
    elif path[1:] in site.static:
        _static(handler, site, path[1:])
    else:
        raise RefusedError(404, "There is nothing at this address.")


def _page(handler: Handler, site: Site) -> None:
    page = site.static["index.html"]
    # The token in the address becomes a cookie, and the page takes it out of the address.
    headers = {} if site.access.token is None else {"Set-Cookie": site.access.cookie()}
    handler.reply(page.kind, page.data, headers=headers)


def _static(handler: Handler, site: Site, name: str) -> None:
    handler.reply(site.static[name].kind, site.static[name].data, cache="no-cache")


def _info(handler: Handler, site: Site) -> None:
    handler.reply_json(site.info)


def _stats(handler: Handler, site: Site) -> None:
    handler.reply(_JSON, site.stats_json())


def _metrics(handler: Handler, site: Site) -> None:
    handler.reply(metrics.CONTENT_TYPE, site.metrics())


def _stream(handler: Handler, site: Site) -> None:
    push.push_page(handler, site, _source(handler, site))


def _mjpeg(handler: Handler, site: Site) -> None:
    push.push_mjpeg(handler, site, _source(handler, site))


_GET: dict[str, Callable[[Handler, Site], None]] = {
    "/": _page,
    "/info": _info,
    "/stats": _stats,
    "/metrics": _metrics,
    "/stream": _stream,
    "/stream.mjpg": _mjpeg,
}


def _source(handler: Handler, site: Site) -> int:
    """The number of the stream that ``?source=`` names; the first if it is left out."""
    text = handler.query.get("source", ["0"])[-1]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    return _known_source(number, site)


def _known_source(number: int, site: Site) -> int:
    last = len(site.channels) - 1
    if not 0 <= number <= last:
        raise RefusedError(404, f"There is no such source: they are numbered 0 to {last}.")
    return number


def _record(handler: Handler, site: Site, body: bytes) -> None:
    source, on = _wish(body)
    recorder = site.recorders[_known_source(source, site)]
    status = 200
    if on:
        try:
            recorder.start()
        except OutputError:
            status = 507 if site.recordings is not None else 409  # its own words are in `status`
    else:
        recorder.stop()
    handler.reply_json(recorder.status(), status)


def _wish(body: bytes) -> tuple[int, bool]:
    """The source and whether to record it."""
    wrong = RefusedError(400, 'The body must be JSON like {"source": 0, "on": true}.')
    try:
        wish: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(wish, dict):
        raise wrong
    source, on = wish.get("source"), wish.get("on")
    if type(source) is not int or type(on) is not bool:  # a bool is an int to isinstance
        raise wrong
    return source, on


def _recording(handler: Handler, site: Site, name: str) -> None:
    """A finished recording as a download."""
    # A name with neither separators nor a leading dot stays in its folder.
    opened = None
    if site.recordings is not None and _NAME.fullmatch(name):
        opened = _open_file(site.recordings / name)
    if opened is None:
        raise RefusedError(404, "There is no such recording.")
    with opened as file:
        left = os.fstat(file.fileno()).st_size
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        handler.begin("video/mp4", length=left, headers=headers)
        if handler.command == "HEAD":
            return
        sender = Sender(handler.connection, live=False)
        while left and (piece := file.read(min(_PIECE, left))):
            sender.send(piece)
            left -= len(piece)
        if left:
            handler.close_connection = True  # cut off meanwhile: the length was a promise


def _open_file(path: Path) -> BinaryIO | None:
    """The file opened for reading; None where there is none, or a link, folder or pipe."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(number).st_mode):
        return os.fdopen(number, "rb")
    os.close(number)
    return None
