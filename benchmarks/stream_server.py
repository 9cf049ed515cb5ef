"""A real RTSP server (GStreamer's) that sends a raw clip endlessly, each frame stamped anew.

Measures what another implementation than our test camera does to a client. For the system's
Python with PyGObject, which need not have numpy (Debian: python3-gi, gir1.2-gst-rtsp-server-1.0,
gstreamer1.0-plugins-base, -good and -ugly):

    /usr/bin/python3 benchmarks/stream_server.py clip.i420 --width 1280 --height 720 --frames 300

The clip holds planar YUV 4:2:0 frames one after the other. The stamp is `time_code.py`'s, with
the monotonic clock's milliseconds just before the frame goes to the encoder, so a client on the
same computer knows how late a picture is. "ready PORT" on stdout says that clients may come.
"""

from __future__ import annotations

import argparse
import mmap
import sys
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

# As a folder, not as a package: some distributions have a package `tests` of their own.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "video" / "live"))
from time_code import BLOCK, block_corners, code_bits, now_ms  # noqa: E402

PATH = "/clip"
DARK, BRIGHT, NEUTRAL = b"\x10", b"\xeb", b"\x80"  # limits of studio-range luma; grey chroma


class Clip:
    """A file of I420 frames, repeated without end."""

    def __init__(self, path: Path, width: int, height: int, frames: int) -> None:
        self.width, self.height, self.frames = width, height, frames
        self._size = width * height * 3 // 2
        self._corners = block_corners(height, width)
        if width % 2 or height % 2:
            raise ValueError(f"{width}x{height}: 4:2:0 needs even sides")
        if path.stat().st_size < self._size * frames:
            raise ValueError(f"{path} is shorter than {frames} frames of {width}x{height}")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def stamped(self, index: int, value: int) -> bytes:
        """Frame `index` of the endless clip with the value in its picture."""
        start = index % self.frames * self._size
        frame = bytearray(self._bytes[start : start + self._size])
        rows = {top: b"" for top, _ in self._corners}
        for bit, (top, _) in zip(code_bits(value), self._corners, strict=True):
            rows[top] += (BRIGHT if bit else DARK) * BLOCK
        for top, row in rows.items():
            for y in range(top, top + BLOCK):
                at = y * self.width
                frame[at : at + len(row)] = row
        # No colour there either: it would tint, and so clip, the blocks on their way to RGB.
        luma, half = self.width * self.height, self.width // 2
        blank = NEUTRAL * (len(rows[0]) // 2)
        for plane in (luma, luma + luma // 4):
            for y in range((max(rows) + BLOCK) // 2):
                frame[plane + y * half : plane + y * half + len(blank)] = blank
        return bytes(frame)


class Pusher:
    """Feeds one media's appsrc at the frame rate while anybody watches."""

    def __init__(self, clip: Clip, source: Any, fps: int) -> None:
        self._clip, self._source, self._fps = clip, source, fps
        self._start_us, self._index, self._stopped = GLib.get_monotonic_time(), 0, False
        self._wait()

    def stop(self, *_: Any) -> None:
        """The last client left and the media is gone; may be called in any thread."""
        self._stopped = True

    def _wait(self) -> None:
        """Until the next frame is due, by the clock: waits of 33 ms would add up to a drift."""
        due_us = self._start_us + self._index * 1_000_000 // self._fps
        wait_us = max(0, due_us - GLib.get_monotonic_time())
        GLib.timeout_add(-(-wait_us // 1000), self._push, priority=GLib.PRIORITY_HIGH)

    def _push(self) -> bool:
        if self._stopped:
            return False
        # Before it plays there is no clock to give the frame its time: let it go.
        if self._source.current_state == Gst.State.PLAYING:
            frame = self._clip.stamped(self._index, now_ms())
            self._source.emit("push-buffer", Gst.Buffer.new_wrapped(frame))
        self._index += 1
        self._wait()
        return False


def launch_line(clip: Clip, fps: int, bitrate: int) -> str:
    """The pipeline that each media is: encoder and packetiser set for little delay."""
    caps = (
        f"video/x-raw,format=I420,width={clip.width},height={clip.height},"
        f"framerate={fps}/1,colorimetry=bt709"
    )
    return (
        f"( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=2 "
        f"leaky-type=downstream caps={caps} "
        f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} bitrate={bitrate} "
        f"! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )


def require_login(server: Any, factory: Any, user: str, password: str) -> None:
    """Let only this user in, by Digest."""
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in (
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
    ):
        permissions.add_permission_for_role("viewer", permission, True)
    factory.set_permissions(permissions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clip", type=Path, help="raw I420 frames")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True, help="how many the clip holds")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--bitrate", type=int, default=4000, help="kbit/s")
    parser.add_argument("--port", type=int, default=8554, help="0: any free one")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    asked = parser.parse_args()

    Gst.init(None)
    clip = Clip(asked.clip, asked.width, asked.height, asked.frames)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch_line(clip, asked.fps, asked.bitrate))
    factory.set_shared(True)

    def media_made(_: Any, media: Any) -> None:
        source = media.get_element().get_by_name_recurse_up("source")
        media.connect("unprepared", Pusher(clip, source, asked.fps).stop)

    factory.connect("media-configure", media_made)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(asked.port))
    server.get_mount_points().add_factory(PATH, factory)
    if asked.user is not None:
        require_login(server, factory, asked.user, asked.password)
    if not server.attach(None):
        raise SystemExit(f"port {asked.port} cannot be listened on")
    print(f"ready {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
