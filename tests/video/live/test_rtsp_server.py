"""The test camera against clients that share no code with it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.video.live.rtp import START_CODE, H264Receiver, RtpSender, h264_payloads, nal_units
from tests.video.live.rtsp_process import RtspServerProcess
from tests.video.live.rtsp_server import RtspServer
from tests.video.live.time_code import now_ms, read_stamp, stamp

SIZE = (240, 320)
TCP = {"rtsp_transport": "tcp"}
# Looking into the stream is what takes most of a client's time to open it.
QUICK = {**TCP, "analyzeduration": "100000"}
TEXTURE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")
gstreamer = pytest.mark.skipif(not shutil.which("gst-launch-1.0"), reason="needs GStreamer")


def scene(index: int) -> np.ndarray[Any, Any]:
    """A noisy picture that moves, so that a picture takes several RTP packets."""
    return np.roll(TEXTURE, index, axis=1)


def reader(url: str, timeout: float = 5, **options: str) -> Any:
    """PyAV's client."""
    return av.open(url, options={**QUICK, **options}, timeout=timeout)


def read(file: Any, count: int) -> list[np.ndarray[Any, Any]]:
    """The next pictures; damaged packets are left out."""
    images: list[np.ndarray[Any, Any]] = []
    for packet in file.demux(video=0):
        try:
            images += [frame.to_ndarray(format="bgr24") for frame in packet.decode()]
        except av.error.InvalidDataError:
            continue
        if len(images) >= count or packet.size == 0:
            break
    return images


def stamps(images: list[np.ndarray[Any, Any]]) -> list[int | None]:
    return [read_stamp(image) for image in images]


def until(condition: Callable[[], bool], seconds: float = 4) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_client_sees_pictures_in_order_and_in_time() -> None:
    with RtspServer(scene, SIZE) as camera, reader(camera.url) as file:
        late = []
        seen = []
        for image in islice(file.decode(video=0), 45):
            seen.append(read_stamp(image.to_ndarray(format="bgr24")))
            assert seen[-1] is not None
            late.append(now_ms() - seen[-1])
        assert seen == sorted(seen)
        assert min(late) < 250
        assert 25 < (seen[-1] - seen[0]) / 44 < 60  # 33 ms, or more on a busy computer
        assert camera.clients == 1
        assert camera.frames_sent >= 45


def test_b_frames_arrive_in_the_order_of_showing() -> None:
    with RtspServer(scene, SIZE, bframes=2, stamp_with="index") as camera:
        with reader(camera.url) as file:
            kinds = {packet.is_keyframe for packet in islice(file.demux(video=0), 5)}
            seen = stamps(read(file, 20))
    assert kinds == {True, False}
    assert None not in seen
    assert seen == sorted(seen)


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_login(scheme: str) -> None:
    user, password = "us er", "p:@/ä"
    with RtspServer(scene, SIZE, user=user, password=password, schemes=(scheme,)) as camera:
        for url in (camera.url, camera.url_with(user, "wrong")):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                reader(url)
        with reader(camera.url_with(user, password)) as file:
            assert len(read(file, 1)) == 1


def test_udp_is_refused() -> None:
    with RtspServer(scene, SIZE) as camera:
        with pytest.raises(OSError):
            reader(camera.url, rtsp_transport="udp")


@pytest.mark.parametrize("reset", [True, False])
def test_killed_camera_ends_the_stream_and_comes_back_on_its_port(reset: bool) -> None:
    with RtspServer(scene, SIZE) as camera:
        port = camera.port
        file = reader(camera.url)
        read(file, 5)
        camera.kill(reset=reset)
        start = time.monotonic()
        with pytest.raises((av.error.FFmpegError, StopIteration)):
            while True:
                next(file.decode(video=0))
        assert time.monotonic() - start < 2
        file.close()
        with pytest.raises(OSError):
            reader(camera.url)
        camera.start()
        assert camera.port == port
        with reader(camera.url) as file:
            assert len(read(file, 3)) == 3


def test_stalled_camera_is_silent_until_it_resumes() -> None:
    with RtspServer(scene, SIZE) as camera:
        with reader(camera.url, timeout=0.5) as file:
            read(file, 5)
            camera.stall()
            with pytest.raises(av.error.ExitError):
                list(file.decode(video=0))
        with pytest.raises(av.error.FFmpegError):
            reader(camera.url, timeout=0.3)
        camera.resume()
        with reader(camera.url) as file:
            assert len(read(file, 3)) == 3


def test_size_changes_in_mid_stream() -> None:
    with RtspServer(scene, SIZE) as camera, reader(camera.url) as file:
        read(file, 5)
        camera.resize(360, 480)
        images = read(file, 60)
        assert {image.shape[:2] for image in images} == {SIZE, (360, 480)}
        assert None not in stamps(images)


def test_corrupt_packets_damage_some_pictures() -> None:
    with RtspServer(scene, SIZE, gop=10, crf=10) as camera, reader(camera.url) as file:
        read(file, 5)
        camera.corrupt(0.3)
        images = read(file, 40)
        assert images
        camera.corrupt(0)
        until(lambda: None not in stamps(read(file, 5)))


def test_dropped_packets_damage_some_pictures() -> None:
    with RtspServer(scene, SIZE, gop=10, crf=10) as camera, reader(camera.url) as file:
        read(file, 5)
        camera.drop(0.3)
        moments = [value for value in stamps(read(file, 30)) if value is not None]
        assert max(np.diff(moments), default=100) > 60
        camera.drop(0)
        until(lambda: None not in stamps(read(file, 5)))


def test_slow_client_does_not_hold_up_the_others() -> None:
    with RtspServer(scene, SIZE, crf=1) as camera, reader(camera.url) as slow:
        read(slow, 1)
        with reader(camera.url) as quick:
            latest = stamps(read(quick, 60))[-1]
            assert latest is not None
            assert now_ms() - latest < 2000
            assert camera.clients == 2
        assert camera.frames_missed > 0


def test_codec_that_nobody_knows() -> None:
    with RtspServer(scene, SIZE, codec_name="X-UNKNOWN") as camera, reader(camera.url) as file:
        assert file.streams.video[0].codec_context is None


def test_camera_with_sound_only() -> None:
    with RtspServer(scene, SIZE, media="audio") as camera, reader(camera.url) as file:
        assert [stream.type for stream in file.streams] == ["audio"]
        sound = next(file.decode(audio=0)).to_ndarray()
        assert np.abs(sound).max() < 10


def test_error_in_make_frame_comes_out_at_close() -> None:
    with pytest.raises(ZeroDivisionError):
        with RtspServer(lambda index: scene(1 // (index == 0)), SIZE) as camera:
            until(lambda: camera._error is not None)


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with RtspServer(scene, SIZE) as camera, reader(camera.url) as file:
        read(file, 1)
        camera.stall()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("login", [{}, {"user": "me", "password": "secret"}])
def test_push_from_pyav(login: dict[str, str]) -> None:
    with RtspServerProcess(scene, SIZE, **login) as camera:
        url = camera.url_with(*login.values()) if login else camera.url
        with av.open(url, "w", format="rtsp", options=TCP, timeout=5) as file:
            stream: Any = file.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            stream.options = {"bf": "2"}
            for index in range(20):
                image = scene(index)
                stamp(image, index)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            file.mux(stream.encode(None))
            assert camera.pushers == 1
        until(lambda: camera.frames_received == 20)
        assert stamps(camera.received) == list(range(20))


@ffmpeg
def test_ffmpeg_pulls_and_pushes_back() -> None:
    with RtspServer(scene, SIZE, stamp_with="index") as camera:
        pull = ["-rtsp_transport", "tcp", "-analyzeduration", "100000", "-i", camera.url]
        push = ["-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", camera.url]
        command = ["ffmpeg", "-v", "error", *pull, "-frames:v", "15", *push]
        subprocess.run(command, check=True, timeout=10)
        until(lambda: camera.frames_received >= 14)
        seen = stamps(camera.received)
    assert None not in seen
    assert seen == sorted(set(seen))  # a busy computer's camera leaves some out


@gstreamer
def test_gstreamer_pulls(tmp_path: Path) -> None:
    with RtspServer(scene, SIZE, user="me", password="secret") as camera:
        source = f"rtspsrc location={camera.url} user-id=me user-pw=secret protocols=tcp latency=0"
        clip = tmp_path / "clip.h264"
        depay = "rtph264depay ! h264parse ! video/x-h264,stream-format=byte-stream"
        sink = f"{depay} ! filesink location={clip}"
        command = ["gst-launch-1.0", "-q", *f"{source} ! {sink}".split(), "buffer-mode=unbuffered"]
        process = subprocess.Popen(command)
        try:
            until(lambda: clip.exists() and clip.stat().st_size > 300_000)
        finally:
            process.kill()
            process.wait()
    with av.open(str(clip)) as file:
        seen = stamps(read(file, 10))
    assert None not in seen


@pytest.mark.parametrize("missing", [None, 1])
def test_receiver_leaves_out_a_picture_that_lacks_a_packet(missing: int | None) -> None:
    units = [b"\x67" + b"s" * 20, b"\x65" + b"i" * 5000]
    sender, receiver = RtpSender(96, 1, 0xFFFE), H264Receiver(96)
    packets = [sender.packets(h264_payloads(units), 0), sender.packets([b"\x41next"], 3000)]
    if missing is not None:
        del packets[0][missing]
    pictures = [receiver.push(packet) for group in packets for packet in group]
    whole = [picture for picture in pictures if picture is not None]
    assert receiver.lost == (missing is not None)
    assert nal_units(whole[-1]) == [b"\x41next"]
    assert len(whole) == 2 - receiver.lost
    if missing is None:
        assert nal_units(whole[0]) == units


def test_receiver_takes_aggregates() -> None:
    units = [b"\x67abc", b"\x68d"]
    body = b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
    (packet,) = RtpSender(96, 1, 0).packets([b"\x18" + body], 0)
    assert H264Receiver(96).push(packet) == b"".join(START_CODE + unit for unit in units)
