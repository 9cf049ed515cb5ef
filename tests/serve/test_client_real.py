"""The client against the real Triton server: same class maps, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from segformer_deploy.errors import ServerError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.serve.client import TritonSegmenter
from segformer_deploy.serve.repository import Request, package_for_triton
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import street_frame
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.cli.test_cli import json_of, segdeploy
from tests.serve.server import ROOT, Server, need_server, running_server
from tests.video.makers import make_video

pytestmark = pytest.mark.triton
Map = np.ndarray[Any, Any]
SIZES = (FrameSize(120, 160), FrameSize(120, 160), FrameSize(96, 200), FrameSize(240, 320))


@dataclass
class Place:
    """An engine, the model repository that it was packaged into, frames and their class maps."""

    engine: Path
    repository: Path
    frames: list[Map]
    maps: list[Map]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    need_server()
    root = tmp_path_factory.mktemp("client")
    shipped = shipped_file(ONNX_FILE)
    assert shipped is not None, "the source tree carries the model"
    engine = root / "streets"
    build_engine(shipped, BuildOptions(output=engine))
    package_for_triton(Request(engine, root / "models", "streets"))
    frames = [street_frame(seed, SIZES[seed % len(SIZES)])[0] for seed in range(8)]
    with Segmenter(engine) as segment:
        maps = [segment(frame) for frame in frames]
    # Masks that would be equal whatever happens prove nothing.
    assert all(len(np.unique(one)) > 3 for one in maps)
    return Place(engine, root / "models", frames, maps)


@pytest.fixture(scope="module")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(place.repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


def urls(server: Server) -> tuple[str, str]:
    return f"http://{server.http}", f"grpc://{server.grpc}"


WAYS: list[dict[str, Any]] = [
    {"shared_memory": True},
    {"shared_memory": False},
    {"encoding": "png"},
    {"pixel_format": "rgb"},
]


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_class_maps_are_those_of_a_local_segmenter(
    place: Place, server: Server, number: int, way: dict[str, Any]
) -> None:
    swap = -1 if way.get("pixel_format") == "rgb" else 1
    frames = [np.ascontiguousarray(frame[..., ::swap]) for frame in place.frames]
    with TritonSegmenter(urls(server)[number], **way) as segment:
        one_by_one = [segment(frame) for frame in frames]
        together = segment(frames)
        assert segment.shares_memory is ("encoding" not in way and way.get("shared_memory", True))
    for found, listed, expected in zip(one_by_one, together, place.maps, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(listed, expected)
    assert not list(Path("/dev/shm").glob("segdeploy-*"))


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
def test_tritonclient_gets_the_same(place: Place, server: Server, number: int) -> None:
    """NVIDIA's own client, which shares no code with ours over HTTP."""
    kind = pytest.importorskip(f"tritonclient.{('http', 'grpc')[number]}")
    client = kind.InferenceServerClient((server.http, server.grpc)[number])
    for frame, expected in zip(place.frames, place.maps, strict=True):
        given = kind.InferInput("frame", [1, *frame.shape], "UINT8")
        given.set_data_from_numpy(frame[None])
        found = client.infer("streets", [given]).as_numpy("class_map")[0]
        np.testing.assert_array_equal(found, expected)
    client.close()


def test_eight_clients_at_once_get_eight_right_answers(place: Place, server: Server) -> None:
    wrong: list[str] = []
    done: list[int] = []
    start = threading.Barrier(8)

    def one(number: int) -> None:
        url = urls(server)[number % 2]
        with TritonSegmenter(url, shared_memory=number % 4 < 2) as segment:
            start.wait(60)
            for step in range(8):
                index = (number + step) % 8  # each begins with a frame of its own
                if not np.array_equal(segment(place.frames[index]), place.maps[index]):
                    wrong.append(f"client {number}, frame {index}")
        done.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert sorted(done) == list(range(8))


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
def test_wrong_names_and_ports(server: Server, number: int) -> None:
    url, other = urls(server)[number], urls(server)[1 - number]
    with pytest.raises(ServerError, match="no model 'road' that is ready") as caught:
        TritonSegmenter(url, "road")
    assert "streets" in caught.value.next_step
    with pytest.raises(ServerError, match="in version 7"):
        TritonSegmenter(url, "streets", version="7")
    swapped = f"{url.partition('://')[0]}://{other.partition('://')[2]}"
    with pytest.raises(ServerError, match="is not a Triton server") as caught:
        TritonSegmenter(swapped, timeout=10)
    assert swapped in caught.value.found
    with pytest.raises(ServerError, match="no answer"):
        TritonSegmenter(f"{url.partition('://')[0]}://127.0.0.1:1", timeout=5)


def test_a_server_that_does_not_tell_its_models(place: Place, tmp_path: Path) -> None:
    restricted = (
        "--http-restricted-api=model-repository:key=word",
        "--grpc-restricted-protocol=model-repository:key=word",
    )
    with running_server(place.repository, tmp_path / "triton", *restricted) as server:
        for url in urls(server):
            with pytest.raises(ServerError, match="does not tell which models it has") as caught:
                TritonSegmenter(url)
            assert "is restricted" in caught.value.found
            assert "--model NAME" in caught.value.next_step
            with TritonSegmenter(url, "streets") as segment:
                np.testing.assert_array_equal(segment(place.frames[0]), place.maps[0])


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
def test_an_answer_that_takes_too_long(place: Place, server: Server, number: int) -> None:
    with TritonSegmenter(urls(server)[number], timeout=10) as patient:
        patient(place.frames[3])
    with pytest.raises(ServerError, match=r"no answer within 0.001 s") as caught:
        with TritonSegmenter(urls(server)[number], timeout=0.001) as segment:
            segment(place.frames[3])
    assert "--timeout" in caught.value.next_step


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
def test_run_remote_writes_the_bytes_of_a_local_run(
    place: Place, server: Server, tmp_path: Path, number: int
) -> None:
    video = make_video(tmp_path / "a.mp4", 6)
    here = ("run", place.engine, "--source", video, "--masks", "local", "--output", "local.mp4")
    local = json_of(segdeploy(*here, "--json", cwd=tmp_path, env=environment()))
    url = urls(server)[number]
    there = ("run", "--remote", url, "--source", video, "--masks", "far", "--output", "far.mp4")
    done = segdeploy(*there, "--json", cwd=tmp_path, env=environment())
    far = json_of(done)
    assert f"server: {url} (triton" in done.stderr
    assert (far["server"], far["model"], far["travel"]) == (url, "streets", "shared memory")
    assert far["frames"] == local["frames"] == 6
    assert far["class_shares"] == local["class_shares"]
    assert far["stages_ms"]["segment"] > 0
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert len(names) == 6
    assert names == sorted(path.name for path in (tmp_path / "far").iterdir())
    for name in names:
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert (tmp_path / "far.mp4").read_bytes() == (tmp_path / "local.mp4").read_bytes()


def kill_with_children(server: Server) -> None:
    """As the kernel does it where memory ends; its models' processes would stay behind."""
    number = server.process.pid
    tasks = Path(f"/proc/{number}/task").glob("*/children")
    children = {int(one) for path in tasks for one in path.read_text().split()}
    maps = Path(f"/proc/{number}/maps").read_text()
    left = set(re.findall(r"/dev/shm/triton_python_backend_shm_region_[\w-]+", maps))
    server.process.kill()
    for path in left:
        Path(path).unlink(missing_ok=True)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [0, 1], ids=["http", "grpc"])
def test_a_server_that_dies_in_the_middle(place: Place, tmp_path: Path, number: int) -> None:
    """One message that names the server; what stands there is whole."""
    with running_server(place.repository, tmp_path / "triton") as server:
        url = urls(server)[number]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "segformer_deploy", "client", url, "--source", "test:"),
                *("--input-size", "64x96", "--output", "o.mp4", "--masks", "masks"),
                *("--json", "--json-lines", "l.jsonl"),
            ],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            lines, until = tmp_path / "l.jsonl", time.monotonic() + 60
            while not (lines.exists() and lines.read_text().count("\n") > 5):
                assert time.monotonic() < until
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            kill_with_children(server)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1, errors
    assert f"error: {url}: no answer" in errors
    assert "next: check the address" in errors
    assert "Traceback" not in errors
    assert json.loads(out)["error"]["kind"] == "ServerError"
    # A camera's recording is kept, as after any error: and it plays.
    with av.open(str(tmp_path / "o.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) > 5
    import cv2

    masks = sorted((tmp_path / "masks").iterdir())
    assert len(masks) > 5
    for path in masks:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (64, 96)
