"""`segdeploy run` on live sources, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.cli.test_cli import json_of, place, segdeploy
from tests.video.live.rtsp_server import RtspServer
from tests.video.makers import make_video

__all__ = ["place"]

STREETS = ("--source", "test:", "--input-size", "64x96", "--input-fps", "60")


def frames_of(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


@contextmanager
def running(*arguments: str | Path, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "segformer_deploy", "run", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, lines: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} has not {lines} lines")


@pytest.fixture
def engine(place: Path) -> Path:
    return place / "build" / "little.onnx"


def test_streets_to_everything_at_once(place: Path, engine: Path) -> None:
    done = segdeploy(
        *("run", engine, *STREETS, "--max-frames", "6", "--json", "--stabilise"),
        *("--output", "o.mp4", "--output", "pictures", "--masks", "masks"),
        *("--json-lines", "shares.jsonl"),
        cwd=place,
    )
    answer = json_of(done)
    assert answer["output"] == ["o.mp4", "pictures"]
    live = answer["live"]
    assert live["shown"] == answer["frames"] == 6
    assert live["frames_in"] == live["shown"] + live["dropped"]
    assert live["pending"] == 0
    assert 0 < live["p50_ms"] <= live["p99_ms"]
    assert frames_of(place / "o.mp4") == 6
    assert len(list((place / "pictures").iterdir())) == len(list((place / "masks").iterdir())) == 6
    lines = [json.loads(line) for line in (place / "shares.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(abs(sum(line["shares"].values()) - 1) < 1e-4 for line in lines)
    assert "stabilise" in answer["stages_ms"]
    assert "latency p50" in done.stderr


def test_several_sources_have_results_of_their_own(place: Path, engine: Path) -> None:
    video = make_video(place / "a.mp4", 5)
    done = segdeploy(
        *("run", engine, "--source", video, "--source", "test:", "--input-size", "64x96"),
        *("--max-frames", "5", "--json", "--output", "o.mp4", "--masks", "masks"),
        cwd=place,
    )
    first, second = json_of(done)["streams"]
    assert (first["source"], first["output"]) == (str(video), "o-1.mp4")
    assert (second["source"], second["masks"]) == ("test:", "masks-2")
    assert first["live"] is None
    assert second["live"]["shown"] == 5
    assert frames_of(place / "o-1.mp4") == frames_of(place / "o-2.mp4") == 5
    assert len(list((place / "masks-1").iterdir())) == 5


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_it_within_a_second(
    place: Path, engine: Path, number: signal.Signals, code: int
) -> None:
    with running(
        *(engine, *STREETS, "--output", "o.mp4", "--json-lines", "l.jsonl", "--view", "0"),
        cwd=place,
    ) as process:
        wait_for(place / "l.jsonl", 5)
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        # What Python itself takes to end is in it.
        assert time.monotonic() - start < 2.5
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert frames_of(place / "o.mp4") == (place / "l.jsonl").read_text().count("\n")


def test_a_camera_with_a_password(place: Path, engine: Path) -> None:
    def grey(index: int) -> Any:
        return np.full((64, 256, 3), 90, np.uint8)

    with RtspServer(grey, (64, 256), user="eve", password="h1dden") as camera:
        url = camera.url_with("eve", "h1dden")
        done = segdeploy(
            *("run", engine, "--source", url, "--max-frames", "4", "--json", "--output", "o.mp4"),
            cwd=place,
        )
        answer = json_of(done)
        wrong = segdeploy(
            "run", engine, "--source", camera.url_with("eve", "wr0ng"), "--masks", "m", cwd=place
        )
    assert answer["frames"] == 4
    assert "h1dden" not in done.stdout + done.stderr
    assert answer["source"].startswith("rtsp://eve:***@127.0.0.1")
    assert wrong.returncode == 1
    assert "refused the user or the password" in wrong.stderr
    assert "wr0ng" not in wrong.stderr


def test_raw_frames_on_stdin(place: Path, engine: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 64, 96, 3), np.uint8)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "segformer_deploy", "run", str(engine), "--source", "-"),
            *("--input-size", "64x96", "--input-format", "rgb24", "--masks", "masks", "--json"),
        ],
        cwd=place,
        input=frames.tobytes(),
        capture_output=True,
        timeout=60,
    )
    answer = json.loads(done.stdout)
    assert (answer["frames"], answer["live"]) == (7, None)
    assert len(list((place / "masks").iterdir())) == 7


def test_the_page(place: Path, engine: Path) -> None:
    with running(engine, *STREETS, "--view", "127.0.0.1:0", cwd=place) as process:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            if found := re.search(r"view: (http://\S+)", line):
                url = found[1]
                break
        assert url
        metrics = ""
        until = time.monotonic() + 20
        while "segdeploy_frames_shown_total" not in metrics and time.monotonic() < until:
            metrics = urllib.request.urlopen(f"{url}metrics", timeout=5).read().decode()
        assert 'segdeploy_frames_shown_total{source="test:"' in metrics
        assert urllib.request.urlopen(url, timeout=5).read().startswith(b"<!")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "camera:77", "--masks", "m"), "there is no camera /dev/video77"),
        (("--source", "test:", "--json-lines", "-", "--json"), "both want stdout"),
        (
            (
                "--source",
                "test:",
            ),
            "nothing to write was named",
        ),
        (("--source", "-", "--masks", "m"), "of unknown size"),
        (("--source", "gopher://x", "--masks", "m"), "gopher://"),
        (("--source", "test:", "--input-fps", "fast", "--masks", "m"), "--input-fps fast"),
        (("--source", "test:", "--input-option", "x", "--masks", "m"), "name=value"),
        (("--source", "test:", "--output", "rtsp://127.0.0.1:9/x"), "127.0.0.1:9"),
        (("--source", "test:", "--output", "/dev/video77"), "/dev/video77"),
        (("--source", "test:", "--view", "nowhere:x"), "nowhere:x"),
    ],
    ids=lambda value: " ".join(value[1:3]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_named(
    place: Path, engine: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = segdeploy("run", engine, *arguments, cwd=place)
    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(place: Path, engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = segdeploy("run", engine, *STREETS, "--view", str(port), cwd=place)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_source_opens_before_anything_heavy(place: Path, engine: Path) -> None:
    """A process that has loaded CUDA libraries cannot open a Jetson's camera."""
    code = (
        "import sys\n"
        "from segformer_deploy.video import source\n"
        "opened = source.open_source\n"
        "def look(*arguments):\n"
        "    heavy = {'onnxruntime', 'tensorrt', 'torch', 'onnx', 'cuda'} & set(sys.modules)\n"
        "    ours = [name for name in sys.modules if name.startswith('segformer_deploy.engine')]\n"
        "    assert not heavy and not ours, (heavy, ours)\n"
        "    print('looked')\n"
        "    return opened(*arguments)\n"
        "source.open_source = look\n"
        f"sys.argv = ['segdeploy', 'run', {str(engine)!r}, '--source', 'test:', '--input-size',"
        " '64x96', '--max-frames', '1', '--masks', 'm']\n"
        "from segformer_deploy.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "looked\n"
