"""A live RTSP camera for tests, with the faults that real ones have, which also takes pushes.

It serves H.264 over RTP inside the RTSP connection (TCP); a client that asks for UDP is told
461, as behind many firewalls. One thread does everything, so a test may change the camera at any
time by its methods, and nothing is left running after `close()`:

    with RtspServer(make_frame, size=(240, 320)) as camera:
        with av.open(camera.url, options={"rtsp_transport": "tcp"}, timeout=5) as file:
            for frame in file.decode(video=0):
                late_ms = now_ms() - read_stamp(frame.to_ndarray(format="bgr24"))
"""

from __future__ import annotations

import asyncio
import base64
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Literal
from urllib.parse import quote

from tests.video.live.h264 import CLOCK, Camera, Coding, Image
from tests.video.live.rtp import IDR, RtpSender, h264_payloads, nal_type, nal_units
from tests.video.live.rtsp_login import Login
from tests.video.live.rtsp_session import Session

VIDEO, PCMU = 96, 0  # RTP payload types
CLOSE_S, REPORT_S = 10.0, 1.0


class RtspServer:
    """Serves `make_frame(index)`, uint8 `[H, W, 3]` BGR, to any number of clients.

    The index counts from `start()` at `fps`; a late camera leaves indices out. Each frame is
    stamped (`time_code.py`) just before it is encoded: with `now_ms()`, its index, or nothing.
    `key_on_play`: a client's PLAY brings a key frame at once; else it waits for the next one.
    `media="audio"`: the camera has sound only. `codec_name`: what the SDP calls the codec.
    """

    def __init__(
        self,
        make_frame: Callable[[int], Image],
        size: tuple[int, int],
        fps: float = 30,
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        gop: int = 30,
        bframes: int = 0,
        *,
        crf: int = 23,
        stamp_with: Literal["time", "index"] | None = "time",
        schemes: tuple[str, ...] = ("digest", "basic"),
        codec_name: str = "H264",
        media: Literal["video", "audio"] = "video",
        key_on_play: bool = True,
        most_received: int = 300,
    ) -> None:
        self.port, self.frames_received = port, 0
        # Sent to at least one client; kept from a slow one (a picture counts for each client).
        self.frames_sent = self.frames_missed = 0
        self.login = Login(user, password, schemes)
        self.flowing: asyncio.Event
        self._fps, self._codec_name, self._media = fps, codec_name, media
        self._camera = Camera(make_frame, size, Coding(fps, gop, bframes, crf), stamp_with)
        self._key_on_play, self._key_wanted = key_on_play, False
        self._corrupt_share = self._drop_share = 0.0
        self._random = random.Random(1)
        self._received: deque[Image] = deque(maxlen=most_received)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._thread: threading.Thread | None = None
        self._reset = True
        self._error: BaseException | None = None

    # What a test does to the camera, from its own thread.

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address, without a name or password."""
        return f"rtsp://127.0.0.1:{self.port}/live"

    def url_with(self, user: str, password: str) -> str:
        """The address with these in it."""
        return f"rtsp://{quote(user, '')}:{quote(password, '')}@127.0.0.1:{self.port}/live"

    @property
    def clients(self) -> int:
        """How many are playing."""
        return sum(session.playing for session in list(self._sessions))

    @property
    def pushers(self) -> int:
        """How many are recording to us."""
        return sum(session.recording for session in list(self._sessions))

    @property
    def received(self) -> list[Image]:
        """The latest pictures that were pushed, uint8 BGR, oldest first."""
        return list(self._received)

    def start(self) -> None:
        """Listen and film, from index 0; after `kill()` on the same port."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="rtsp-camera", daemon=True
        )
        self._thread.start()
        started.result(CLOSE_S)

    def kill(self, *, reset: bool = True) -> None:
        """All sockets die at once; clients see a reset connection, or (`reset=False`) its end."""
        if self._thread is None:
            return
        self._reset = reset
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_S)
        assert not self._thread.is_alive(), "the camera's thread does not end"
        self._thread = None

    def close(self) -> None:
        """End it, and raise what went wrong in `make_frame` or in a session meanwhile."""
        self.kill()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stall(self) -> None:
        """Connections stay and new ones are taken, but nothing is sent, not even an answer."""
        self._loop.call_soon_threadsafe(self.flowing.clear)

    def resume(self) -> None:
        """Answer what was asked meanwhile and go on with a key frame of now."""
        self._key_wanted = True
        self._loop.call_soon_threadsafe(self.flowing.set)

    def resize(self, height: int, width: int) -> None:
        """Go on in another size, which only the stream itself tells."""
        self._camera.size = (height, width)

    def corrupt(self, share: float) -> None:
        """Flip some bytes in this share of the RTP payloads."""
        self._corrupt_share = share

    def drop(self, share: float) -> None:
        """Leave out this share of the RTP packets."""
        self._drop_share = share

    # What a session asks, in the camera's thread.

    def client_plays(self) -> None:
        """A client waits for its first picture."""
        self._key_wanted |= self._key_on_play

    def keep(self, images: Iterable[Image]) -> None:
        """Pictures that were pushed to us."""
        for image in images:
            self._received.append(image)
            self.frames_received += 1

    def sdp(self) -> str:
        """What DESCRIBE answers."""
        if self._media == "audio":
            track = [f"m=audio 0 RTP/AVP {PCMU}", "a=rtpmap:0 PCMU/8000"]
        else:
            sps, pps = self._camera.headers()
            sprop = ",".join(base64.b64encode(unit).decode() for unit in (sps, pps))
            level = sps[1:4].hex().upper()
            track = [
                f"m=video 0 RTP/AVP {VIDEO}",
                f"a=rtpmap:{VIDEO} {self._codec_name}/{CLOCK}",
                f"a=fmtp:{VIDEO} packetization-mode=1;profile-level-id={level};"
                f"sprop-parameter-sets={sprop}",
                f"a=framerate:{self._fps:g}",
            ]
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=test", "c=IN IP4 0.0.0.0", "t=0 0"]
        return "\r\n".join([*lines, "a=control:*", *track, "a=control:track0", ""])

    # The camera's thread.

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.flowing = asyncio.Event()
        self.flowing.set()
        try:
            server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        except OSError as error:
            started.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        filming = asyncio.create_task(self._guarded(self._film()))
        started.set_result(None)
        await self._stop.wait()
        server.close()
        for session in self._sessions:
            session.die(reset=self._reset)
        tasks = [filming, *self._sessions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session, task = Session(self, reader, writer), asyncio.current_task()
        assert task is not None
        self._sessions[session] = task
        await self._guarded(session.run())
        del self._sessions[session]

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        """Keep the first error for `close()`; the rest of the server goes on."""
        try:
            await work
        except Exception as error:
            self._error = self._error or error

    async def _film(self) -> None:
        """Take and send pictures at their times, and leave out those that are already late."""
        kind = VIDEO if self._media == "video" else PCMU
        first = self._random.getrandbits(32)  # a camera's clock does not begin at 0
        sender = RtpSender(kind, self._random.getrandbits(32), first & 0xFFFF)
        self._camera.restart()
        start, index, next_report = self._loop.time(), 0, 0.0
        while True:
            if kind == PCMU:
                samples = round((index + 1) * 8000 / self._fps) - round(index * 8000 / self._fps)
                payloads = [b"\xff" * samples]  # silence
                at = first + round(index * 8000 / self._fps)
                self._send(sender.packets(payloads, at), key=True)
            else:
                key, self._key_wanted = self._key_wanted, False
                for pts, data in self._camera.shoot(index, key=key):
                    units = nal_units(data)
                    packets = sender.packets(h264_payloads(units), first + pts)
                    self._send(packets, key=any(nal_type(unit) == IDR for unit in units))
                if self._loop.time() > next_report:
                    next_report = self._loop.time() + REPORT_S
                    report = sender.report(first + self._camera.pts(index))
                    for session in self._sessions:
                        if self.flowing.is_set():
                            session.report(report)
            index = max(index + 1, int((self._loop.time() - start) * self._fps))
            await asyncio.sleep(start + index / self._fps - self._loop.time())

    def _send(self, packets: list[bytes], *, key: bool) -> None:
        if not self.flowing.is_set():
            for session in self._sessions:
                session.needs_key = True
            return
        packets = [packet for packet in packets if self._random.random() >= self._drop_share]
        packets = [self._damaged(packet) for packet in packets]
        sent = [session.send(packets, key=key) for session in self._sessions]
        self.frames_sent += any(sent)

    def _damaged(self, packet: bytes) -> bytes:
        """The packet, or with the wanted chance one with flipped bytes behind its header."""
        if self._random.random() >= self._corrupt_share:
            return packet
        damaged = bytearray(packet)
        for _ in range(3):
            damaged[self._random.randrange(12, len(packet))] ^= self._random.randrange(1, 256)
        return bytes(damaged)
