"""The front model in a stand-in for the server: answers, errors, batches, a network behind it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segformer_deploy.engine.session import Engine, Session
from segformer_deploy.errors import RunError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.serve import triton_model
from segformer_deploy.serve.bls import BlsEngine
from segformer_deploy.serve.repository import Request as Packaging
from segformer_deploy.serve.repository import package_for_triton
from tests.little import little_logits, little_spec
from tests.serve.engines import little_engine
from tests.serve.fake_backend import FakeBackend, Request, TritonModelException, nothing_lent

Frame = npt.NDArray[np.uint8]
INVALID = 3


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_engine(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    made = FakeBackend(little_network=lambda image: np.stack([*map(little, image)]))
    monkeypatch.setitem(sys.modules, triton_model.BACKEND_MODULE, made)  # type: ignore[arg-type]
    return made


def little(image: Frame) -> npt.NDArray[np.float32]:
    return little_logits(image).astype(np.float32)


def arguments(model: Path, kind: str = "CPU", device: str = "0", count: int = 1) -> dict[str, str]:
    return {
        "model_config": json.dumps({"instance_group": [{"count": count}]}),
        "model_repository": str(model),
        "model_version": "1",
        "model_instance_kind": kind,
        "model_instance_device_id": device,
        "model_instance_name": "little_0_0",
    }


def opened(engine: Path, root: Path, **more: Any) -> triton_model.TritonPythonModel:
    done = package_for_triton(Packaging(engine, root, **more))
    model = triton_model.TritonPythonModel()
    model.initialize(arguments(done.folder))
    return model


def frame(seed: int, height: int = 80, width: int = 120) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(picture: Frame, ending: str = ".png") -> Frame:
    return cv2.imencode(ending, picture)[1].reshape(1, -1)


def test_answers_are_the_segmenters(engine: Path, backend: FakeBackend, tmp_path: Path) -> None:
    model = opened(engine, tmp_path)
    one, two = frame(0), frame(1)
    asked = [
        Request(frame=one[None]),
        Request({"pixel_format": "rgb"}, frame=one[None, ..., ::-1]),
        Request({"pixel_format": "bgr"}, frame=np.stack([one, two])),
        Request(encoded=file_of(two)),
        Request("", frame=frame(2, 33, 200)[None]),
    ]
    answers = model.execute(asked)
    maps = [answer.tensors["class_map"].array for answer in answers]
    with Segmenter(engine) as segment:
        expected = [segment(one), segment(two), segment(frame(2, 33, 200))]
    for found, wanted in zip(maps, ([0], [0], [0, 1], [1], [2]), strict=True):
        np.testing.assert_array_equal(found, np.stack([expected[index] for index in wanted]))
        assert found.dtype == np.uint8
    model.finalize()
    assert nothing_lent()


def test_requests_of_one_network_size_are_one_call(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    model = opened(engine, tmp_path)
    calls: list[int] = []
    inner = model._segment

    class Counting:
        tiling = None
        network_size = staticmethod(inner.network_size)

        def __call__(self, frames: list[Frame]) -> Any:
            calls.append(len(frames))
            inner.pixel_format = self.pixel_format  # type: ignore[attr-defined]
            return inner(frames)

    model._segment = Counting()  # type: ignore[assignment]
    model.execute([Request(frame=frame(seed)[None]) for seed in range(5)])
    assert calls == [5]
    calls.clear()
    mixed = [Request(frame=frame(seed, 64 + 8 * seed)[None]) for seed in range(4)]
    model.execute([*mixed, Request(encoded=file_of(frame(9)))])
    assert calls == [5], "the model's rule stretches all to one size"
    calls.clear()
    model.execute(
        [Request(frame=frame(0)[None]), Request({"pixel_format": "rgb"}, frame=frame(1)[None])]
    )
    assert calls == [1, 1]
    inner.close()


TEXTS = {
    "neither": "a request with neither 'frame' nor 'encoded'",
    "both": "a request with both 'frame' and 'encoded'",
    "small": "a frame of 16x16",
    "format": "pixel format 'nv12'",
    "garbage": "the picture in 'encoded' cannot be read as an image",
    "cut": "the picture in 'encoded' is damaged",
    "sizes": "pictures of several sizes in one request: 64x64, 64x96",
    "kind": "'frame' of float32",
    "rank": "'frame' of uint8 [80, 120]",
    "rgb file": "pixel format 'rgb' of a picture in 'encoded'",
}


def wrong_requests() -> dict[str, Request]:
    # Two files in one request have one length: the shorter is filled up behind its end.
    wide, square = (file_of(np.zeros((64, width, 3), np.uint8), ".bmp")[0] for width in (96, 64))
    padded = np.pad(square, (0, wide.size - square.size))
    return {
        "neither": Request(),
        "both": Request(frame=frame(0)[None], encoded=file_of(frame(0))),
        "small": Request(frame=frame(0, 16, 16)[None]),
        "format": Request({"pixel_format": "nv12"}, frame=frame(0)[None]),
        "garbage": Request(encoded=np.frombuffer(b"\xff\xd8\xff garbage", np.uint8)[None]),
        "cut": Request(encoded=file_of(frame(0))[:, :400]),
        "sizes": Request(encoded=np.stack([wide, padded])),
        "kind": Request(frame=frame(0)[None].astype(np.float32)),
        "rank": Request(frame=frame(0)[..., 0]),
        "rgb file": Request({"pixel_format": "rgb"}, encoded=file_of(frame(0))),
    }


def test_a_wrong_request_fails_alone_with_our_text(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    model = opened(engine, tmp_path)
    wrong = wrong_requests()
    good = Request(frame=frame(3)[None])
    answers = model.execute([good, *wrong.values(), good])
    first, *errors, last = answers
    with Segmenter(engine) as segment:
        for answer in (first, last):
            np.testing.assert_array_equal(answer.tensors["class_map"].array[0], segment(frame(3)))
    for what, answer in zip(wrong, errors, strict=True):
        assert answer.has_error(), what
        assert answer.error().message().startswith(TEXTS[what]), answer.error().message()
        assert "expected:" in answer.error().message()
        assert answer.error().code() == INVALID, what
    model.finalize()


def test_parameters_that_are_no_json_are_that_requests_trouble(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    model = opened(engine, tmp_path)
    bad, good = model.execute([Request("{", frame=frame(0)[None]), Request(frame=frame(0)[None])])
    assert "the request does not read (JSONDecodeError" in bad.error().message()
    assert not good.has_error()
    model.finalize()


def test_an_engine_that_does_not_load_says_so(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    done = package_for_triton(Packaging(engine, tmp_path))
    (done.folder / "1" / "engine" / "model.onnx").write_bytes(b"cut")
    with pytest.raises(TritonModelException, match=r"model.onnx has 3 bytes[\s\S]*expected:"):
        triton_model.TritonPythonModel().initialize(arguments(done.folder))
    (done.folder / "1" / "segdeploy.json").unlink()
    with pytest.raises(TritonModelException, match=r"segdeploy\.json does not read"):
        triton_model.TritonPythonModel().initialize(arguments(done.folder))


def test_instances_share_the_cores(
    engine: Path, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segformer_deploy.engine.cores.usable_cores", lambda: 8)
    done = package_for_triton(Packaging(engine, tmp_path))
    for count, threads in ((1, 8), (3, 2), (20, 1)):
        model = triton_model.TritonPythonModel()
        model.initialize(arguments(done.folder, count=count))
        assert model._segment.threads == threads
        model.finalize()


def test_each_gpu_instance_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, index, after in (
        (None, 1, "1"),
        ("", 0, "0"),
        ("3,5", 1, "5"),
        ("GPU-a, GPU-b", 0, "GPU-a"),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
        triton_model._choose_gpu(index)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after


def test_the_same_maps_over_a_network_of_the_server(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    model = opened(engine, tmp_path, network=True)
    frames = [frame(0), frame(1), frame(2, 64, 200)]
    answers = model.execute([Request(frame=one[None]) for one in frames])
    with Segmenter(engine) as segment:
        for one, answer in zip(frames, answers, strict=True):
            np.testing.assert_array_equal(answer.tensors["class_map"].array[0], segment(one))
    assert backend.asked == [("little-network", 1, (3, 64, 96, 3))]
    model.finalize()
    assert nothing_lent()


def test_a_network_that_fails_is_the_servers_trouble(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    model = opened(engine, tmp_path, network=True)

    def broken(image: Frame) -> Any:
        raise ValueError("out of device memory")

    for network, text in (
        (broken, "the network 'little-network' version 1 failed: out of device memory"),
        (lambda image: np.zeros((1, 2), np.float32), "answered float32 [1, 2]"),
        (lambda image: np.zeros((1, 3, 16, 24), np.float64), "answered float64"),
    ):
        backend.networks["little_network"] = network
        (answer,) = model.execute([Request(frame=frame(0)[None])])
        assert text in answer.error().message()
        assert answer.error().code() != INVALID
    assert nothing_lent()


def test_a_front_asks_the_network_of_its_own_version(
    engine: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    """However a server was brought to take version 1 again: its weights, or an error."""
    done = package_for_triton(Packaging(engine, tmp_path, network=True))
    package_for_triton(Packaging(engine, tmp_path, version=2, network=True))
    shutil.rmtree(done.folder / "2")
    model = triton_model.TritonPythonModel()
    model.initialize(arguments(done.folder))
    asked = [Request(frame=frame(0)[None])]
    (answer,) = model.execute(asked)
    assert not answer.has_error()
    backend.loaded = {2}
    (answer,) = model.execute(asked)
    assert "'little-network' version 1 failed" in answer.error().message()
    assert "--use 1" in answer.error().message()
    assert [version for _, version, _ in backend.asked] == [1, 1]
    model.finalize()


def test_the_networks_engine_keeps_our_protocols() -> None:
    spec = little_spec(output="class_map")
    backend = FakeBackend(n=lambda image: image[..., 0])
    engine = BlsEngine(backend, "n", spec, 1)
    session = engine.session()
    assert isinstance(engine, Engine)
    assert isinstance(session, Session)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    np.testing.assert_array_equal(session.run({"image": image})["class_map"], image[..., 0])
    with pytest.raises(RunError, match="the input 'image' is nothing"):
        session.run({})
