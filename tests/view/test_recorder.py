"""Recording: files that play, frames that are left out, disks that fill up."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from segformer_deploy.streets import CLASS_NAMES, PALETTE
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.video_writer import VideoSink
from segformer_deploy.view import recording as module
from segformer_deploy.view.recorder import file_stem, file_stems
from segformer_deploy.view.recording import ROOM
from segformer_deploy.view.view import View
from tests.view.makers import Run, get, shown, street_view, until, watching


def record(view: View, on: bool, source: int = 0) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"source": source, "on": on}).encode()
    status, _, answer = get(view, "/record", method="POST", body=body, X_Segdeploy="1")
    return status, json.loads(answer)


def state(view: View, source: int = 0) -> dict[str, Any]:
    with watching(view) as messages:
        found: dict[str, Any] = messages.state()["recorders"][source]
        return found


def film(path: Path) -> tuple[list[Any], list[float]]:
    """Pictures (BGR) and times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [float(frame.pts * frame.time_base) for frame in frames if frame.pts is not None]
    return [frame.to_ndarray(format="bgr24") for frame in frames], times


@pytest.mark.parametrize("timed", [True, False])
def test_a_recording_plays(tmp_path: Path, timed: bool) -> None:
    folder = tmp_path / "films" / "here"
    with street_view(recordings=folder, names=("rtsp://x/ä b",)) as view:
        view.offer(shown(0))
        status, answer = record(view, True)
        assert (status, answer["on"], answer["error"]) == (200, True, "")
        assert record(view, True)[1]["name"] == answer["name"]  # once is enough
        moments = []
        for index in range(12):
            moments.append(time.monotonic())
            view.offer(shown(index, timed=timed))
            time.sleep(0.05)
            # A busy machine would leave some out, as it should.
            until(lambda index=index: state(view)["frames"] == index + 1)
        seconds = moments[-1] - moments[0]
        assert record(view, False)[1]["on"] is False
        until(lambda: state(view)["files"])
        [file] = state(view)["files"]
        assert (file["frames"], file["dropped"]) == (12, 0)
        assert file["name"].startswith("rtsp-x-b_")
        status, _, body = get(view, f"/recordings/{file['name']}")
        assert status == 200
    assert body == (folder / file["name"]).read_bytes()
    pictures, times = film(folder / file["name"])
    assert len(pictures) == 12
    assert 0 <= times[0] < 1.5  # the encoder reorders: the first may start some frames late
    assert times[-1] - times[0] == pytest.approx(0.55 if timed else seconds, abs=0.15)
    one = shown(5)
    drawn = Overlay(PALETTE, CLASS_NAMES, borders=True).draw(one.frame.image, one.class_map)
    assert pictures[5].shape == drawn.shape  # full resolution
    assert np.abs(pictures[5].astype(int) - drawn).mean() < 8
    assert [path.name for path in folder.iterdir()] == [file["name"]]


def test_closing_finishes_it(tmp_path: Path) -> None:
    view = street_view(recordings=tmp_path)
    record(view, True)
    for index in range(10):
        view.offer(shown(index))
        until(lambda index=index: state(view)["frames"] == index + 1)
    start = time.monotonic()
    view.close()
    assert time.monotonic() - start < 1.0
    [path] = tmp_path.iterdir()
    assert len(film(path)[0]) == 10


def test_a_recorder_that_does_not_keep_up_leaves_frames_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    write = VideoSink.write

    def slow(self: VideoSink, *args: Any) -> None:
        gate.wait(10)
        write(self, *args)

    monkeypatch.setattr(VideoSink, "write", slow)
    with street_view(recordings=tmp_path) as view:
        record(view, True)
        for index in range(30):
            before = time.perf_counter()
            view.offer(shown(index))
            assert time.perf_counter() - before < 0.5  # a frame takes the sink longer
            time.sleep(0.005)
        left_out = 30 - ROOM - 1
        assert state(view)["dropped"] == left_out
        assert (
            f'recording_dropped_total{{source="street",stream="0"}} {left_out}'
            in get(view, "/metrics")[2].decode()
        )
        gate.set()
        record(view, False)
        until(lambda: state(view)["files"])
        assert state(view)["files"][0]["frames"] == ROOM + 1


def test_a_full_disk_ends_the_recording_and_not_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mux = VideoSink._mux
    written = []

    def full(self: VideoSink, packets: list[Any]) -> None:
        written.append(1)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        mux(self, packets)

    monkeypatch.setattr(VideoSink, "_mux", full)
    with street_view(recordings=tmp_path) as view:
        record(view, True)
        with Run(view) as run:
            until(lambda: state(view)["error"])
            status = state(view)
            assert "No space left on device" in status["error"]
            assert status["on"] is False
            assert ("lost" in status["error"]) == (status["files"] == [])
            offered = run.offered
            with watching(view) as messages:  # it goes on
                until(lambda: messages.frame()[0]["index"] > offered)
            monkeypatch.setattr(VideoSink, "_mux", mux)
            assert record(view, True)[1]["error"] == ""  # and may be tried again
            until(lambda: state(view).get("frames"))
    assert all(path.suffix == ".mp4" for path in tmp_path.iterdir())
    assert all(film(path)[0] for path in tmp_path.iterdir())


def test_a_disk_that_is_nearly_full_keeps_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10 << 30]
    usage = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(module, "shutil", usage)
    monkeypatch.setattr(module, "_LOOK_AT_DISK_S", 0.0)
    with street_view(recordings=tmp_path) as view:
        record(view, True)
        with Run(view) as run:
            until(lambda: run.offered > 5)
            free[0] = 1 << 20
            until(lambda: state(view)["files"])
        status = state(view)
        assert "nearly full" in status["error"]
        assert "kept" in status["error"]
        status_code, answer = record(view, True)
        assert (status_code, answer["on"]) == (507, False)
        assert "nearly full" in answer["error"]
        assert len(list(tmp_path.iterdir())) == 1
        assert len(film(tmp_path / status["files"][0]["name"])[0]) == status["files"][0]["frames"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with street_view(recordings=tmp_path / "file") as view:
        status, answer = record(view, True)
        assert status == 507
        assert "cannot" in answer["error"]
        assert answer["on"] is False
        assert get(view, "/stats")[0] == 200


def test_recording_can_be_off() -> None:
    with street_view() as view:
        status, answer = record(view, True)
        assert status == 409
        assert answer["possible"] is False
        assert get(view, "/recordings/a.mp4")[0] == 404


def test_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    with street_view(recordings=tmp_path) as view:
        record(view, True)
        for index, (height, width) in enumerate([(60, 80), (60, 80), (120, 80), (61, 33)]):
            picture = np.full((height, width, 3), 90, np.uint8)
            class_map = np.zeros((height, width), np.uint8)
            view.offer(shown(index, picture=picture, class_map=class_map))
            until(lambda index=index: state(view)["frames"] == index + 1)
    [path] = tmp_path.iterdir()
    pictures, _ = film(path)
    assert len(pictures) == 4
    assert all(picture.shape == (60, 80, 3) for picture in pictures)


def test_two_recordings_of_one_second_do_not_meet(tmp_path: Path) -> None:
    with street_view(recordings=tmp_path, names=("a", "a")) as view:
        names = set()
        for _ in range(3):
            for source in (0, 1):
                names.add(record(view, True, source)[1]["name"])
            view.offer(shown(0, stream=0))
            view.offer(shown(0, stream=1))
            for source in (0, 1):
                record(view, False, source)
        assert len(names) == 6
    assert {path.name for path in tmp_path.iterdir()} == names


def test_nothing_came_nothing_stays(tmp_path: Path) -> None:
    with street_view(recordings=tmp_path) as view:
        record(view, True)
        record(view, False)
        until(lambda: not state(view)["finishing"])
        assert state(view)["files"] == []
    assert list(tmp_path.iterdir()) == []


def test_names_of_files() -> None:
    assert file_stem("rtsp://cam.local:554/main?x=1") == "rtsp-cam-local-554-main-x-1"
    assert file_stem("../../etc/passwd") == "etc-passwd"
    assert file_stem("道") == "source"
    assert len(file_stem("a" * 100)) == 40
    assert file_stems(["a", "b", "a!", "b-2"]) == ["a", "b", "a-3", "b-2"]
    assert len(set(file_stems(["b", "b", "b-2", "b"]))) == 4
