"""Pushing frames to one viewer, for as long as it stays: the newest, never a queue."""

from __future__ import annotations

import time

from segformer_deploy.view.handler import Handler
from segformer_deploy.view.message import BOUNDARY
from segformer_deploy.view.sender import Sender
from segformer_deploy.view.site import Site

STATE_S = 0.5
"""Between two states that the page gets, also while no frame comes: it then tells why."""


def push_page(handler: Handler, site: Site, source: int) -> None:
    """Frames and states as messages (see `message`), until the viewer or the view ends."""
    lane = site.channels[source].lanes["page"]
    with site.viewer(lane):
        handler.begin("application/octet-stream")
        if handler.command == "HEAD":
            return
        sender = Sender(handler.connection, live=True)
        number, state_due = 0, 0.0
        while not site.closing.is_set():
            if time.monotonic() >= state_due:
                sender.send(site.state_message())
                state_due = time.monotonic() + STATE_S
            encoded = lane.next_after(number, max(0.0, state_due - time.monotonic()))
            if encoded is not None:
                number = encoded.number
                sender.send(encoded.data)


def push_mjpeg(handler: Handler, site: Site, source: int) -> None:
    """The drawn overlay as multipart MJPEG, until the viewer or the view ends."""
    lane = site.channels[source].lanes["mjpeg"]
    with site.viewer(lane):
        handler.begin(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        if handler.command == "HEAD":
            return
        sender = Sender(handler.connection, live=True)
        number = 0
        while not site.closing.is_set():
            encoded = lane.next_after(number, STATE_S)
            if encoded is not None:
                number = encoded.number
                sender.send(encoded.data)
            elif sender.gone():
                return
