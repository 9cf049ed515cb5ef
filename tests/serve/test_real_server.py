"""The packaged models inside the real Triton server, asked by Triton's own client.

Without the server (see `tests/serve/server.py`) these are skipped.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.serve.model_config import Serving
from segformer_deploy.serve.repository import Packaged, Request, package_for_triton
from segformer_deploy.serve.use import use_version
from segformer_deploy.spec import ModelSpec
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.little import WEIGHT, little_model, little_spec
from tests.serve.engines import little_engine
from tests.serve.server import Server, need_server, running_server

pytestmark = pytest.mark.triton

Frame = npt.NDArray[np.uint8]
NOTED = '''
"""The packaged model; each call of its Segmenter is noted in a file."""

from pathlib import Path

from segformer_deploy.serve.triton_model import TritonPythonModel as Packaged

CALLS = Path(__file__).with_name("calls.txt")


class Noting:
    def __init__(self, inner):
        object.__setattr__(self, "inner", inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        setattr(self.inner, name, value)

    def __call__(self, frames):
        with CALLS.open("a") as file:
            print(len(frames), file=file)
        return self.inner(frames)


class TritonPythonModel(Packaged):
    def initialize(self, args):
        super().initialize(args)
        self._segment = Noting(self._segment)
'''
STAND_IN = '''
"""The network as the `onnxruntime` backend would run it, by the Python backend."""

from pathlib import Path

import triton_python_backend_utils as pb

from segformer_deploy.engine.backend import EngineOptions, engine_from_onnx
from segformer_deploy.serve.dlpack import Lent, array_of

import numpy as np


class TritonPythonModel:
    def initialize(self, args):
        file = Path(__file__).with_name("model.onnx")
        self.session = engine_from_onnx(file, EngineOptions(threads=1)).engine.session()

    def execute(self, requests):
        images = [array_of(pb.get_input_tensor_by_name(one, "image")) for one in requests]
        logits = self.session.run({"image": np.concatenate(images)})["logits"].copy()
        answers, first = [], 0
        for image in images:
            own = logits[first : first + len(image)]
            first += len(image)
            tensor = pb.Tensor.from_dlpack("logits", Lent(own))
            answers.append(pb.InferenceResponse([tensor]))
        return answers
'''


@pytest.fixture(scope="module", autouse=True)
def _server_here() -> None:
    need_server()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def engine(place: Path) -> Path:
    return little_engine(place / "engines")


def noted(done: Packaged) -> Path:
    """Let the packaged model note its calls; the file that they are noted in."""
    version = done.folder / "1"
    (version / "model.py").write_text(NOTED)
    return version / "calls.txt"


@pytest.fixture(scope="module")
def served(place: Path, engine: Path) -> Iterator[tuple[Server, Path]]:
    """A server with the front model and nowhere to keep a cache, and the file of its calls."""
    serving = Serving(max_batch=8, delay_ms=400)
    calls = noted(package_for_triton(Request(engine, place / "models", serving=serving)))
    nowhere = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/none"}
    with running_server(place / "models", place / "scratch", environment=nowhere) as server:
        yield server, calls


def frame(seed: int, height: int = 80, width: int = 120) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def as_file(picture: Frame) -> Frame:
    return cv2.imencode(".png", picture)[1].reshape(1, -1)


@contextmanager
def client_of(server: Server, kind: str) -> Iterator[tuple[Any, Any]]:
    """(tritonclient's module, a client); closed, else the server waits for it as it stops."""
    module = pytest.importorskip(f"tritonclient.{kind}")
    client = module.InferenceServerClient(getattr(server, kind))
    try:
        yield module, client
    finally:
        client.close()


def ask(client: tuple[Any, Any], model: str = "little", **inputs: Any) -> Any:
    """The class maps of a request; keyword `parameters`: the request's."""
    module, connection = client
    parameters = inputs.pop("parameters", None)
    tensors = []
    for name, array in inputs.items():
        kind = {"uint8": "UINT8", "float32": "FP32"}[str(array.dtype)]
        tensors.append(module.InferInput(name, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(np.ascontiguousarray(array))
    return connection.infer(model, tensors, parameters=parameters).as_numpy("class_map")


def together(server: Server, frames: list[Frame], model: str = "little") -> list[Any]:
    """The answers to frames that are all sent at once, each by a client of its own."""
    answers: list[Any] = [None] * len(frames)
    start = threading.Barrier(len(frames))

    def send(index: int) -> None:
        with client_of(server, "grpc") as client:
            ask(client, model, frame=frames[index][None])  # connects
            start.wait()
            answers[index] = ask(client, model, frame=frames[index][None])

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_class_maps_are_the_segmenters(
    served: tuple[Server, Path], engine: Path, kind: str
) -> None:
    one, two = frame(0), frame(1)
    with client_of(served[0], kind) as client, Segmenter(engine) as segment:
        expected = segment([one, two])
        np.testing.assert_array_equal(ask(client, frame=one[None])[0], expected[0])
        both = ask(client, frame=np.stack([one, two]))
        np.testing.assert_array_equal(both, np.stack(expected))
        assert both.dtype == np.uint8
        swapped = ask(client, frame=one[None, ..., ::-1], parameters={"pixel_format": "rgb"})
        np.testing.assert_array_equal(swapped[0], expected[0])
        np.testing.assert_array_equal(ask(client, encoded=as_file(two))[0], expected[1])


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_the_configuration_describes_the_model(served: tuple[Server, Path], kind: str) -> None:
    with client_of(served[0], kind) as (_, client):
        more = {"as_json": True} if kind == "grpc" else {}
        config = client.get_model_config("little", **more)
        config = config.get("config", config)
    assert ModelSpec.from_json(config["parameters"]["segdeploy"]["string_value"]) == little_spec()
    assert config["max_batch_size"] == 8
    assert [one["name"] for one in config["input"]] == ["frame", "encoded"]
    assert served[0].ready("little")


WRONG = {
    "garbage": ({"encoded": np.frombuffer(b"\xff\xd8\xffgarbage", np.uint8)[None]},
                "the picture in 'encoded' cannot be read as an image"),
    "cut": ({"encoded": as_file(frame(0))[:, :900]}, "the picture in 'encoded' is damaged"),
    "small": ({"frame": frame(0, 16, 16)[None]}, "a frame of 16x16"),
    "both": ({"frame": frame(0)[None], "encoded": as_file(frame(0))},
             "a request with both 'frame' and 'encoded'"),
    "format": ({"frame": frame(0)[None], "parameters": {"pixel_format": "nv12"}},
               "pixel format 'nv12'"),
    # These the server refuses by the configuration, before our model is asked.
    "neither": ({}, "request has 0 inputs"),
    "type": ({"frame": frame(0)[None].astype(np.float32)},
             "data-type is 'FP32', but model 'little' expects 'UINT8'"),
    "flat": ({"frame": frame(0)[None, ..., 0]}, "Expected [-1,-1,-1,3], got [1,80,120]"),
    "alone": ({"frame": frame(0)}, "batch-size must be <= 8"),
    "channels": ({"frame": frame(0)[None, ..., :2]}, "Expected [-1,-1,-1,3], got [1,80,120,2]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["http", "grpc"])
@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_request_gets_an_error_and_the_server_lives(
    served: tuple[Server, Path], engine: Path, what: str, kind: str
) -> None:
    from tritonclient.utils import InferenceServerException

    inputs, text = WRONG[what]
    with client_of(served[0], kind) as client, Segmenter(engine) as segment:
        with pytest.raises(InferenceServerException) as told:
            ask(client, **inputs)
        assert text in told.value.message()
        # 400 and INVALID_ARGUMENT: the client's fault, which is not worth sending again.
        assert told.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        assert served[0].alive
        np.testing.assert_array_equal(ask(client, frame=frame(5)[None])[0], segment(frame(5)))


@pytest.mark.parametrize("mixed", [False, True], ids=["one size", "mixed sizes"])
def test_requests_of_several_clients_are_one_call(
    served: tuple[Server, Path], engine: Path, mixed: bool
) -> None:
    server, calls = served
    frames = [frame(seed, 64 + 8 * seed * mixed) for seed in range(8)]
    before = server.statistics("little")
    first = len(calls.read_text().split())
    answers = together(server, frames)
    made = [int(one) for one in calls.read_text().split()[first:]]
    after = server.statistics("little")
    with Segmenter(engine) as segment:
        for one, answer in zip(frames, answers, strict=True):
            np.testing.assert_array_equal(answer[0], segment(one))
    # Each client sent its frame twice; the second time all at once.
    assert sum(made) == 16
    assert 8 in made, made
    assert after["execution_count"] - before["execution_count"] == len(made) < 16
    assert after["inference_count"] - before["inference_count"] == 16


def test_the_check_at_first_load_is_kept_where_a_cache_is(
    place: Path, engine: Path, served: tuple[Server, Path]
) -> None:
    assert "Segdeploy" not in served[0].log()  # loaded without a place for it, and no complaint
    package_for_triton(Request(engine, place / "cached"))
    cache = place / "cache"
    with running_server(
        place / "cached", place / "scratch-cached", environment={"XDG_CACHE_HOME": str(cache)}
    ) as server:
        assert server.ready("little")
    assert len(list((cache / "segdeploy" / "verified").iterdir())) == 1


def test_an_engine_that_gives_wrong_masks_is_not_served(place: Path, engine: Path) -> None:
    """A folder that is broken says why in the log; the server itself runs on."""
    done = package_for_triton(Request(engine, place / "broken"))
    (done.folder / "1" / "engine" / "model.onnx").write_bytes(b"cut")
    with running_server(
        place / "broken", place / "scratch-broken", "--exit-on-error=false", wait=False
    ) as server:
        end = time.monotonic() + 60
        while "model.onnx has 3 bytes" not in server.log() and time.monotonic() < end:
            time.sleep(0.2)
        assert "the copy is not whole" in server.log()
        assert "copy the whole folder again" in server.log()
        assert server.process.poll() is None
        assert not server.ready("little")


def test_cameras_share_a_network_beside_the_front(place: Path, engine: Path) -> None:
    serving = Serving(instances=4, max_batch=8, delay_ms=100)
    done = package_for_triton(Request(engine, place / "beside", network=True, serving=serving))
    assert done.network == "little-network"
    _as_stand_in(place / "beside" / done.network)
    # Fronts of one frame each: what is batched is batched by the network.
    front = done.folder / "config.pbtxt"
    front.write_text(front.read_text().replace("max_batch_size: 8", "max_batch_size: 1"))
    frames = [frame(seed, 64 + 8 * seed) for seed in range(4)]
    with running_server(place / "beside", place / "scratch-beside") as server:
        answers = together(server, frames)
        network = server.statistics("little-network")
        assert server.alive
    with Segmenter(engine) as segment:
        for one, answer in zip(frames, answers, strict=True):
            np.testing.assert_array_equal(answer[0], segment(one))
    sizes = [one["batch_size"] for one in network["batch_stats"]]
    assert max(sizes) == 4, "four fronts asked for one frame each, and got one batch"
    assert network["execution_count"] < network["inference_count"]


def _as_stand_in(model: Path, version: int = 1) -> None:
    """Let the Python backend run what Triton's own would."""
    for folder in (model, model / str(version)):
        config = (folder / "config.pbtxt").read_text()
        changed = config.replace('platform: "onnxruntime_onnx"\n', "").replace(
            'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"', 'backend: "python"'
        )
        assert changed.count("onnx") == 0
        (folder / "config.pbtxt").write_text(changed)
    (model / str(version) / "model.py").write_text(STAND_IN)


def other_engine(root: Path) -> Path:
    """Of the same classes, and other weights: red and blue have changed places."""
    onnx = root / "other.onnx"
    root.mkdir(parents=True, exist_ok=True)
    onnx.write_bytes(little_model(weight=WEIGHT[::-1].copy()).SerializeToString())
    build_engine(onnx, BuildOptions(output=root / "other"))
    return root / "other"


@pytest.mark.parametrize("network", [False, True], ids=["inside", "beside"])
def test_going_back_a_version(place: Path, engine: Path, tmp_path: Path, network: bool) -> None:
    """Each version has its own weights and settings; deleting a folder never mixes them."""
    root, other = tmp_path / "models", other_engine(tmp_path / "engines")
    one = frame(0)
    with Segmenter(engine) as segment, Segmenter(other) as second:
        expected = {1: segment(one), 2: second(one)}
    assert (expected[1] != expected[2]).any()
    for version, source, instances in ((1, engine, 1), (2, other, 2)):
        serving = Serving(instances=instances, max_batch=4 + version)
        package_for_triton(Request(source, root, "roads", version, network, serving=serving))
        if network:
            _as_stand_in(root / "roads-network", version)

    def answers(name: str, version: int) -> None:
        with running_server(root, tmp_path / name) as server:
            with client_of(server, "http") as client:
                found = ask(client, "roads", frame=one[None])[0]
                np.testing.assert_array_equal(found, expected[version])
                config = client[1].get_model_config("roads")
            assert config["max_batch_size"] == 4 + version
            assert config["instance_group"][0]["count"] == version
            assert server.statistics("roads")["version"] == str(version)

    answers("newest", 2)
    use_version(root, "roads", 1)
    answers("back", 1)
    use_version(root, "roads", 2)
    answers("forth", 2)
    if network:
        package_for_triton(Request(other, root, "roads", 3, network))
        _as_stand_in(root / "roads-network", 3)
        for version in ("2", "3"):
            shutil.rmtree(root / "roads" / version)
        with running_server(root, tmp_path / "deleted") as server:
            with client_of(server, "http") as client:
                from tritonclient.utils import InferenceServerException

                with pytest.raises(
                    InferenceServerException, match="'roads-network' version 1 failed"
                ):
                    ask(client, "roads", frame=one[None])


def test_a_second_version_takes_over(place: Path, engine: Path) -> None:
    root = place / "versions"
    package_for_triton(Request(engine, root))
    package_for_triton(Request(engine, root, version=2))
    with running_server(root, place / "scratch-versions") as server:
        with client_of(server, "http") as client, Segmenter(engine) as segment:
            np.testing.assert_array_equal(ask(client, frame=frame(0)[None])[0], segment(frame(0)))
        assert server.statistics("little")["version"] == "2"
    assert os.path.lexists(root / "little" / "1" / "engine")
