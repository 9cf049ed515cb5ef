"""From an address to the grabber that reads it."""

from __future__ import annotations

from collections.abc import Callable

from segformer_deploy.video.address import Address
from segformer_deploy.video.frame import Source
from segformer_deploy.video.live.grabber import CaptureOptions, Grabber


def open_grabber(
    address: Address, options: CaptureOptions, open_file: Callable[[], Source]
) -> Grabber:
    """One connection to `address`.

    Raises:
        MediaError: it cannot be had: what is wrong, and what can be done.
    """
    # Each kind imports what it needs: a camera on the board loads no more than its own.
    if address.kind == "camera":
        from segformer_deploy.video.live.camera_grabber import CameraGrabber

        return CameraGrabber(address.number, options)
    if address.kind in ("csi", "gst"):
        from segformer_deploy.video.live.gst_grabber import gst_grabber

        return gst_grabber(address.kind, address.number, address.text, options)
    if address.kind == "url":
        from segformer_deploy.video.live.stream_grabber import StreamGrabber

        return StreamGrabber(address.text, options)
    if address.kind == "stdin":
        from segformer_deploy.video.live.raw import StdinGrabber

        return StdinGrabber(options)
    from segformer_deploy.video.live.paced import FileGrabber, StreetsGrabber

    if address.kind == "streets":
        return StreetsGrabber(address.text, options)
    return FileGrabber(open_file, options)
