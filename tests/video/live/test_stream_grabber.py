"""Streams over the network: what arrives, how late, and every way of going wrong, named."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.errors import MediaError
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.source import open_source
from tests.video.live.rtsp_server import RtspServer
from tests.video.live.time_code import now_ms, read_stamp
from tests.video.makers import index_of, make_video

SIZE = (128, 256)
OPTIONS = CaptureOptions(open_s=5, stall_s=0.7)


def picture(index: int) -> Any:
    image = np.full((*SIZE, 3), 40, np.uint8)
    left = index * 4 % (SIZE[1] - 32)
    image[72:104, left : left + 32] = (60, 200, 90)
    return image


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 5
    while not set(threading.enumerate()) <= before and time.monotonic() < until:
        time.sleep(0.02)
    assert set(threading.enumerate()) <= before


@contextmanager
def watched(camera: RtspServer, options: CaptureOptions = OPTIONS) -> Iterator[LiveSource]:
    source = open_source(camera.url, options)
    assert isinstance(source, LiveSource)
    with source:
        yield source


def frame_where(
    source: LiveSource, right: Callable[[Frame], bool], within_s: float = 15.0
) -> Frame:
    """The first frame taken that is as wanted."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        frame = source.take()
        if frame is not None and right(frame):
            return frame
        time.sleep(0.002)
    raise AssertionError(f"no such frame; {source.meter.snapshot()}")


def error_of(url: str, options: CaptureOptions = OPTIONS) -> MediaError:
    start = time.monotonic()
    with pytest.raises(MediaError) as caught:
        open_source(url, options).close()
    assert time.monotonic() - start < options.open_s + 3
    return caught.value


def test_the_newest_frame_is_a_fresh_one() -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        assert (source.size.height, source.size.width) == SIZE
        assert source.fps == 30
        ages = []
        for _ in range(10):
            time.sleep(0.15)  # an engine that is slower than the camera
            stamp = read_stamp(frame_where(source, lambda frame: True).image)
            assert stamp is not None
            ages.append(now_ms() - stamp)
        # Not a queue: with one, ages would grow by a frame each time.
        assert np.median(ages) < 120
        stats = source.meter.snapshot()
    assert stats.dropped > 10
    assert stats.corrupt == 0


def test_frames_are_the_cameras() -> None:
    with RtspServer(picture, SIZE, stamp_with="index") as camera, watched(camera) as source:
        frame = frame_where(source, lambda frame: frame.index > 3)
        index = read_stamp(frame.image)
        assert index is not None
        expected = picture(index)
        # Below the time code.
        difference = np.abs(frame.image[72:].astype(int) - expected[72:])
        assert difference.mean() < 4
        assert frame.captured_s is not None
        assert 0 <= time.monotonic() - frame.captured_s < 5


def test_b_frames_and_long_key_intervals() -> None:
    with (
        RtspServer(picture, SIZE, gop=60, bframes=2, key_on_play=False) as camera,
        watched(camera) as source,
    ):
        frame_where(source, lambda frame: frame.index > 20)
        assert source.corrupt == 0


def test_a_password() -> None:
    with RtspServer(picture, SIZE, user="eve", password="s3cr:t/@") as camera:
        with open_source(camera.url_with("eve", "s3cr:t/@"), OPTIONS) as source:
            assert "s3cr" not in source.name
            assert "***" in source.name
        for url in (camera.url, camera.url_with("eve", "wr0ng"), camera.url_with("adam", "s3cr")):
            error = error_of(url)
            assert "refused the user or the password" in error.found
            assert "wr0ng" not in str(error)
            assert "s3cr" not in str(error)


def test_no_decoder_for_it() -> None:
    with RtspServer(picture, SIZE, codec_name="X-UNKNOWN") as camera:
        error = error_of(camera.url, CaptureOptions(open_s=3, stall_s=1))
        assert "no decoder for its codec" in error.found


def test_sound_only() -> None:
    with RtspServer(picture, SIZE, media="audio") as camera:
        assert "no video" in error_of(camera.url).found


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refused" in error_of(f"rtsp://u:pw123@127.0.0.1:{port}/x").found


def test_somebody_who_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        error = error_of(url, CaptureOptions(open_s=0.8, stall_s=0.5))
        assert "0.8 s" in error.found


def test_killed_and_started_again() -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        last = frame_where(source, lambda frame: True)
        for _ in range(3):
            camera.kill()
            deadline = time.monotonic() + 5
            while source.meter.snapshot().state != "reconnecting" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert source.meter.snapshot().error
            camera.start()
            start = time.monotonic()
            began = start
            back = frame_where(source, lambda frame, s=start: (frame.captured_s or 0) > s)
            assert time.monotonic() - began < 3
            assert back.index > last.index
            assert (back.pts or 0) > (last.pts or 0)
            last = back
        stats = source.meter.snapshot()
        assert stats.reconnects == 3
        assert (stats.state, stats.error, stats.stalls) == ("running", "", 0)


def test_a_stall_is_noticed_and_mended() -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        frame_where(source, lambda frame: True)
        camera.stall()
        deadline = time.monotonic() + 5
        while not source.meter.snapshot().stalls and time.monotonic() < deadline:
            time.sleep(0.01)
        stats = source.meter.snapshot()
        assert stats.stalls == 1
        assert "no frame for 0.7 s" in stats.error
        camera.resume()
        start = time.monotonic()
        frame_where(source, lambda frame: (frame.captured_s or 0) > start)
        assert source.meter.snapshot().state == "running"


def test_another_size_in_mid_stream() -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        frame_where(source, lambda frame: True)
        camera.resize(160, 320)
        frame = frame_where(source, lambda frame: frame.image.shape == (160, 320, 3))
        assert read_stamp(frame.image) is not None
        assert source.meter.snapshot().size == "160x320"


@pytest.mark.parametrize("fault", ["corrupt", "drop"])
def test_damaged_packets_are_counted_and_survived(fault: str) -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        frame_where(source, lambda frame: True)
        getattr(camera, fault)(0.3)
        deadline = time.monotonic() + 10
        # Of a packet that never came, the decoder does not tell.
        least = 5 if fault == "corrupt" else 0
        frames = source.meter.snapshot().frames_in + 30
        while time.monotonic() < deadline:
            source.take()
            stats = source.meter.snapshot()
            if stats.corrupt >= least and stats.frames_in >= frames:
                break
            time.sleep(0.01)
        assert (stats.corrupt >= least, stats.frames_in >= frames) == (True, True)
        getattr(camera, fault)(0.0)
        start = time.monotonic()
        whole = frame_where(
            source,
            lambda frame: (
                (frame.captured_s or 0) > start + 1.5 and read_stamp(frame.image) is not None
            ),
        )
        assert whole.image.shape == (*SIZE, 3)


def test_closing_while_it_stalls() -> None:
    with RtspServer(picture, SIZE) as camera, watched(camera) as source:
        camera.stall()
        time.sleep(0.1)
        start = time.monotonic()
        source.close()
        assert time.monotonic() - start < 1.6


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_film_from_a_web_server_ends(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 12)
    with web_server(tmp_path) as url:
        with open_source(f"{url}/a.mp4", CaptureOptions(live=False)) as source:
            assert [index_of(frame.image) for frame in source] == list(range(12))
            assert source.finished
        with open_source(f"{url}/a.mp4") as source:
            assert [frame.index for frame in source][-1] == 11


def test_no_such_film(tmp_path: Path) -> None:
    with web_server(tmp_path) as url:
        assert "404" in error_of(f"{url}/b.mp4").found


def test_a_playlist_does_not_lead_to_our_files(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.ts", 12)
    served = tmp_path / "served"
    served.mkdir()
    (served / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n"
        f"file://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    )
    with web_server(served) as url:
        error_of(f"{url}/list.m3u8", CaptureOptions(open_s=3, stall_s=1))
