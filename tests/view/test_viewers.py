"""Watching: one encoding for all, the newest for each, and nobody slows the run."""

from __future__ import annotations

import gc
import http.client
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.streets import CLASS_NAMES
from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.view import push, sender
from tests.view.makers import Messages, Run, decoded, get, shown, street_view, until, watching


def test_nothing_is_encoded_for_nobody() -> None:
    with street_view() as view:
        with Run(view, fps=200, frames=50) as run:
            run.wait()
        time.sleep(0.1)
        assert view.encodings == view.drawings == (0,)


class Reader:
    """Reads messages on a thread; how far each frame was behind when it came."""

    def __init__(self, messages: Messages, run: Run) -> None:
        self.indices: list[int] = []
        self.behind: list[int] = []
        self._messages = messages
        self._run = run
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            while True:
                header = self._messages.frame()[0]
                self.indices.append(header["index"])
                self.behind.append(self._run.offered - 1 - header["index"])
        except (EOFError, OSError, ValueError, AttributeError, http.client.HTTPException):
            pass


def test_ten_viewers_cost_one_encoding_and_a_stalled_one_nothing() -> None:
    rng = np.random.default_rng(0)
    frames = 60
    # Noise does not compress: what the stalled one does not read fills its connection.
    pictures = [rng.integers(0, 256, (270, 480, 3), np.uint8) for _ in range(4)]
    class_map = np.zeros((270, 480), np.uint8)
    with street_view() as view, ExitStack() as stack:
        run = Run(view)
        stalled = stack.enter_context(socket.create_connection(("127.0.0.1", view.port)))
        stalled.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        readers = [Reader(stack.enter_context(watching(view)), run) for _ in range(9)]
        until(lambda: view.viewers == 10)
        times, work = [], []
        for index in range(frames):
            one = shown(index, picture=pictures[index % 4], class_map=class_map)
            before, worked = time.perf_counter(), time.thread_time()
            view.offer(one)
            times.append(time.perf_counter() - before)
            work.append(time.thread_time() - worked)
            run.offered = index + 1
            time.sleep(0.05)
            until(lambda index=index: view.encodings == (index + 1,))
        until(lambda: all(reader.indices[-1:] == [frames - 1] for reader in readers))
        assert view.encodings == (frames,)
        for reader in readers:
            assert reader.indices == sorted(set(reader.indices))
            assert len(reader.indices) > frames * 0.8
            assert np.median(reader.behind) == 0
        # Half of them in wall time, which any other program can spoil; nearly all in our own.
        assert np.median(times) < 1e-3
        assert sorted(work)[-3] < 1e-3
        assert view.viewers == 10  # the stalled one has its time


def test_mjpeg_is_drawn_once_for_all_and_not_for_the_page() -> None:
    with street_view() as view, ExitStack() as stack:
        answers = [stack.enter_context(watching(view, "/stream.mjpg")).answer for _ in range(4)]
        until(lambda: view.viewers == 4)
        assert "multipart/x-mixed-replace" in answers[0].headers["Content-Type"]
        with Run(view, frames=60) as run:
            run.wait()
        for answer in answers:
            for _ in range(3):
                assert answer.readline() == b"--segdeploy-frame\r\n"
                assert answer.readline() == b"Content-Type: image/jpeg\r\n"
                length = int(answer.readline().rpartition(b":")[2])
                answer.readline()
                assert decoded(answer.read(length)).shape == (144, 256, 3)
                answer.readline()
        assert 3 <= view.drawings[0] <= 60
        assert view.encodings == (0,)


def test_a_new_viewer_gets_the_newest_at_once_and_nothing_old() -> None:
    with street_view() as view:
        view.offer(shown(0))
        with watching(view) as first:
            assert first.frame()[0]["index"] == 0
        until(lambda: view.viewers == 0)
        view.offer(shown(1))
        view.offer(shown(2))
        with watching(view) as second, watching(view) as third:
            assert second.frame()[0]["index"] == 2
            assert third.frame()[0]["index"] == 2
        assert view.encodings == (2,)


def test_streams_are_apart() -> None:
    with street_view(names=("a", "b")) as view:
        with watching(view, "/stream?source=1") as messages, Run(view, streams=2, frames=5) as run:
            run.wait()
            assert messages.frame()[0]["source"] == 1
        assert view.encodings[0] == 0
        assert view.encodings[1] > 0


def test_states_come_though_no_frame_does() -> None:
    stats = [StreamStats("street", "stalled", error="no frame for 3.0 s")]
    with street_view(stats=lambda: stats) as view, watching(view) as messages:
        for _ in range(2):
            state = messages.state()
            assert state["stats"][0]["state"] == "stalled"
            assert state["stats"][0]["error"] == "no frame for 3.0 s"
            assert state["viewers"] == 1
        assert get(view, "/stats")[2].startswith(b'[{"name": "street"')


def test_a_frame_of_another_size_follows() -> None:
    with street_view(width=64) as view, watching(view) as messages:
        for index, (height, width) in enumerate([(40, 60), (144, 256), (20, 300), (1, 1)]):
            picture = np.full((height, width, 3), 90, np.uint8)
            class_map = np.full((height, width), index, np.uint8)
            view.offer(shown(index, picture=picture, class_map=class_map))
            header, jpeg, png = messages.frame()
            assert header["size"] == f"{height}x{width}"
            factor = -(-width // 64)
            shape = (max(1, height // factor), width // factor)
            assert decoded(png).shape == decoded(jpeg).shape[:2] == shape
            assert (decoded(png) == index).all()


def test_more_than_256_classes() -> None:
    names = [f"class {i}" for i in range(400)]
    palette = [(i % 256, i // 256, 7) for i in range(400)]
    rng = np.random.default_rng(1)
    class_map = rng.integers(0, 400, (30, 40)).astype(np.int32)
    picture = np.zeros((30, 40, 3), np.uint8)
    with street_view(class_names=names, palette=palette) as view:
        with watching(view) as messages, watching(view, "/stream.mjpg") as drawn:
            view.offer(shown(picture=picture, class_map=class_map, classes=400))
            header, _, png = messages.frame()
            planes = decoded(png).astype(int)
            assert header["bits"] == 16
            assert len(header["shares"]) == 400
            assert np.array_equal(planes[:, :40] | planes[:, 40:] << 8, class_map)
            assert drawn.answer.readline() == b"--segdeploy-frame\r\n"


def test_a_frame_that_cannot_be_shown_is_said_and_the_next_one_comes() -> None:
    wrong = shown(0, picture=np.zeros((4, 4, 3), np.uint8), class_map=np.zeros((5, 4), np.uint8))
    with street_view() as view, watching(view) as messages:
        until(lambda: view.viewers == 1)
        view.offer(wrong)
        until(lambda: "cannot be shown" in messages.state()["errors"][0])
        view.offer(shown(1))
        assert messages.frame()[0]["index"] == 1


def test_a_viewer_that_leaves_in_the_middle_of_a_message() -> None:
    with street_view() as view:
        for path in ("/stream", "/stream.mjpg"):
            with Run(view, fps=50):
                with socket.create_connection(("127.0.0.1", view.port)) as connection:
                    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    connection.recv(700)
                    # A reset, not a goodbye.
                    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                until(lambda: view.viewers == 0)
        with watching(view) as messages:
            assert messages.frame()[0]["kind"] == "frame"


def test_viewers_that_leave_while_nothing_comes_are_noticed() -> None:
    with street_view() as view:
        for path in ("/stream", "/stream.mjpg"):
            with watching(view, path):
                until(lambda: view.viewers == 1)
            until(lambda: view.viewers == 0)


def test_a_viewer_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sender.Sender.__init__

    def impatient(self: sender.Sender, *args: Any, **more: Any) -> None:
        real(self, *args, **{**more, "stall_s": 0.5})

    monkeypatch.setattr(sender.Sender, "__init__", impatient)
    noise = np.random.default_rng(0).integers(0, 256, (720, 960, 3), np.uint8)
    class_map = np.zeros((720, 960), np.uint8)
    with street_view() as view, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", view.port))
        stalled.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: view.viewers == 1)
        view.offer(shown(picture=noise, class_map=class_map))
        until(lambda: view.viewers == 0)


def threads() -> set[str]:
    # "segdeploy_3" and the like are the pool of the CPU runtime, which stays.
    return {one.name for one in threading.enumerate() if one.name.startswith("segdeploy ")}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted by /proc")
def test_closing_ends_everything_within_a_second() -> None:
    gc.collect()
    before = descriptors()
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)
    class_map = np.zeros((540, 960), np.uint8)
    view = street_view()
    hanging = [socket.create_connection(("127.0.0.1", view.port)) for _ in range(12)]
    for number, one in enumerate(hanging[:9]):
        path = "/stream" if number % 3 else "/stream.mjpg"
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    hanging[9].sendall(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
    hanging[10].sendall(b"GET /sta")
    until(lambda: view.viewers == 9)
    for index in range(60):  # more than their connections hold
        view.offer(shown(index, picture=noise, class_map=class_map))
        time.sleep(0.01)
    start = time.monotonic()
    view.close()
    assert time.monotonic() - start < 1.0
    view.close()
    assert threads() == set()
    view.offer(shown(99))  # a run that is a little late does no harm
    for one in hanging:
        one.close()
    del hanging
    gc.collect()
    assert descriptors() == before


def test_an_error_of_the_run_closes_it_too() -> None:
    with pytest.raises(ZeroDivisionError), street_view() as view:
        with watching(view):
            until(lambda: view.viewers == 1)
            raise ZeroDivisionError
    assert threads() == set()


def test_an_error_in_the_middle_ends_the_stream_alone() -> None:
    calls = []

    def stats() -> list[StreamStats]:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError
        return []

    with street_view(stats=stats) as view, watching(view) as messages:
        assert messages.next()[0]["kind"] == "state"
        with pytest.raises(EOFError):
            while True:
                messages.next()
        status, _, body = get(view, "/stats")
        assert (status, body) == (500, b"An error of segdeploy: ZeroDivisionError().\n")


def test_info_says_what_there_is() -> None:
    import json

    with street_view(random_weights=True, names=("camera:0", "b")) as view:
        info = json.loads(get(view, "/info")[2])
    assert info["sources"] == ["camera:0", "b"]
    assert info["classes"] == list(CLASS_NAMES)
    assert info["palette"][3] == [128, 64, 128]
    assert info["random_weights"] is True
    assert push.STATE_S <= 1
