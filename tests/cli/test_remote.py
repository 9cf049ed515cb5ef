"""`segdeploy run --remote` and `segdeploy client`, as a user types them: a server segments."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.serve.fake import config_of
from tests.cli.test_cli import json_of, pictures, place, segdeploy
from tests.cli.test_run_live import running
from tests.little import little_spec
from tests.serve.kserve import KServe, kserve
from tests.video.makers import make_video

__all__ = ["place"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(place: Path) -> Iterator[KServe]:
    """The little engine behind HTTP; its Segmenter serves one thread at a time."""
    turn = threading.Lock()
    with Segmenter(place / "build" / "little.onnx", threads=1) as segment:

        def segmented(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            with turn:
                return segment(np.ascontiguousarray(frame))

        with kserve(segmented, {"road": config_of(little_spec())}) as running:
            yield running


def same_files(one: Path, other: Path) -> int:
    """How many there are; they are the same, byte for byte."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    return len(names)


@pytest.mark.parametrize("command", ["run", "client"])
@pytest.mark.parametrize("more", [(), ("--no-shared-memory",), ("--encode", "png")])
def test_files_are_those_of_a_local_run(
    place: Path, server: KServe, command: str, more: tuple[str, ...]
) -> None:
    video = make_video(place / "a.mp4", 7, sound="aac")
    common = ("--source", video, "--json")
    segdeploy(
        *("run", "build/little.onnx", *common, "--masks", "here", "--output", "here.mp4"), cwd=place
    )
    who = ("run", "--remote", server.url) if command == "run" else ("client", server.url)
    done = segdeploy(*who, *common, *more, "--masks", "far", "--output", "far.mp4", cwd=place)
    answer = json_of(done)
    assert same_files(place / "here", place / "far") == 7
    assert (place / "here.mp4").read_bytes() == (place / "far.mp4").read_bytes()
    assert (answer["server"], answer["model"], answer["frames"]) == (server.url, "road", 7)
    travel = {"--no-shared-memory": "raw", "--encode": "png"}
    assert answer["travel"] == (travel[more[0]] if more else "shared memory")
    assert answer["stages_ms"]["segment"] > 0
    assert "the weights are random" in done.stderr
    assert f"server: {server.url} (triton 2.51.0): road" in done.stderr
    assert len(server.requests) == 7


def test_a_server_that_takes_no_more_memory(place: Path, server: KServe) -> None:
    """The note comes when it happens, and what is said of the run is how it went."""
    server.most_memory = 4096
    done = segdeploy(
        *("client", server.url, "--source", make_video(place / "a.mp4", 3), "--masks", "m"),
        "--json",
        cwd=place,
    )
    assert json_of(done)["travel"] == "raw"
    assert done.stderr.count("note: frames go through the connection, not shared memory") == 1
    assert done.stderr.index("frames by shared memory") < done.stderr.index("note: frames go")
    assert len(list((place / "m").iterdir())) == 3


def test_jpeg_is_said_to_be_lossy(place: Path, server: KServe) -> None:
    done = segdeploy(
        *("client", server.url, "--source", pictures(place / "in"), "--masks", "m"),
        *("--encode", "jpeg", "--quality", "40", "--json"),
        cwd=place,
    )
    assert json_of(done)["travel"] == "jpeg"
    assert "JPEG is lossy" in done.stderr


def test_several_sources_share_one_server(place: Path, server: KServe) -> None:
    done = segdeploy(
        *("client", server.url, "--source", make_video(place / "a.mp4", 4), "--source", "test:"),
        *("--input-size", "64x96", "--max-frames", "4", "--masks", "m", "--json"),
        cwd=place,
    )
    answer = json_of(done)
    assert [one["frames"] for one in answer["streams"]] == [4, 4]
    assert answer["model"] == "road"


def test_a_board_without_any_engine_library(place: Path, server: KServe) -> None:
    """Neither they nor what loads them is touched; nor is tritonclient, for HTTP needs none."""
    code = f"""
import ctypes, sys
BLOCKED = ("onnxruntime", "onnx", "torch", "tensorrt", "tensorrt_rtx", "cuda", "tritonclient",
           "segformer_deploy.engine.native", "segformer_deploy.engine.ort",
           "segformer_deploy.engine.package", "segformer_deploy.runtime.segmenter")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in BLOCKED):
            raise ImportError(name + " is not on this board", name=name)
sys.meta_path.insert(0, Absent())
load = ctypes.CDLL.__init__
def refuse(self, name, *more, **words):
    if "_kernels" in str(name) or "_native" in str(name):
        raise OSError("no compiled library on this board: " + str(name))
    load(self, name, *more, **words)
ctypes.CDLL.__init__ = refuse
from segformer_deploy.cli.main import main
sys.argv = ["segdeploy", "client", {server.url!r}, "--source", "a.mp4", "--masks", "m",
            "--output", "o.mp4", "--json"]
main()
"""
    make_video(place / "a.mp4", 3)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert json_of(done)["frames"] == 3
    assert len(list((place / "m").iterdir())) == 3


@pytest.mark.parametrize("live", [False, True])
def test_a_server_that_goes_in_the_middle(place: Path, server: KServe, live: bool) -> None:
    """Exit code 1, one message with address and next step; every file is whole or absent."""
    frames, kept = 0, server.segment

    def dying(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        nonlocal frames
        frames += 1
        if frames > 5:
            raise ConnectionAbortedError  # the handler hangs up, as a killed server does
        return kept(frame)

    server.segment = dying
    source = ("test:", "--input-size", "64x96") if live else (make_video(place / "a.mp4", 12),)
    done = segdeploy(
        *("client", server.url, "--source", *source, "--masks", "m", "--output", "o.mp4"),
        *("--json-lines", "l.jsonl", "--json"),
        cwd=place,
    )
    assert done.returncode == 1
    assert f"error: {server.url}: no answer" in done.stderr
    assert "next: check the address" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "ServerError"
    masks = sorted((place / "m").iterdir())
    assert len(masks) == 5
    for path in masks:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (64, 96)
    assert len((place / "l.jsonl").read_text().splitlines()) == 5
    # A camera's recording is kept whatever ends it, a converted file is whole or absent.
    assert (place / "o.mp4").exists() is live
    if live:
        with av.open(str(place / "o.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 5
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(place: Path, server: KServe) -> None:
    server.delay_s = 60.0
    with running(
        *("--remote", server.url, "--source", "test:", "--input-size", "64x96", "--masks", "m"),
        cwd=place,
    ) as process:
        until = time.monotonic() + 60
        while not server.requests:
            assert time.monotonic() < until
            time.sleep(0.02)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert time.monotonic() - start < 10
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("run", "build/little.onnx", "--remote", "URL"), "ENGINE beside --remote"),
        (("run", "--remote", "URL", "--threads", "2"), "--threads beside --remote"),
        (("run", "--remote", "URL", "--no-arena"), "--no-arena beside --remote"),
        (("run", "--remote", "URL", "--tile", "64x64"), "--tile beside --remote"),
        (("run", "build/little.onnx", "--encode", "png"), "--encode without a server"),
        (("run", "build/little.onnx", "--no-shared-memory"), "--shared-memory without a server"),
        (("client", "URL", "--encode", "webp"), "encoding 'webp'"),
        (("client", "URL", "--quality", "50"), "--quality without JPEG"),
        (("client", "URL", "--model", "street"), "no model 'street' that is ready"),
        (
            (
                "client",
                "127.0.0.1:8000",
            ),
            "the server's address '127.0.0.1:8000'",
        ),
        (("client", "http://127.0.0.1:1"), "http://127.0.0.1:1: no answer (Connection refused)"),
    ],
)
def test_mistakes(place: Path, server: KServe, arguments: tuple[str, ...], found: str) -> None:
    words = [server.url if word == "URL" else word for word in arguments]
    more = ("--source", make_video(place / "a.mp4", 1), "--masks", "m")
    done = segdeploy(*words, *more, cwd=place)
    assert done.returncode == 1, done.stderr
    assert found in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "m").exists()
    assert server.requests == []
