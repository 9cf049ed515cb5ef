"""The ONNX Runtime engine against arithmetic redone in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.engine.session import Engine, Session
from segformer_deploy.errors import BackendError, OnnxFileError, RunError
from tests.little import little_logits, write_little


@pytest.fixture
def engine(tmp_path: Path) -> OrtEngine:
    return OrtEngine(write_little(tmp_path / "m.onnx"), OrtOptions(threads=1))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_it_keeps_the_protocol(engine: OrtEngine) -> None:
    assert isinstance(engine, Engine)
    assert isinstance(engine.session(), Session)
    assert engine.name.startswith("onnxruntime ")
    assert engine.inputs[0].dtype == "uint8"
    assert engine.output_shapes({"image": (2, 65, 96, 3)}) == {"logits": (2, 3, 17, 24)}


@pytest.mark.parametrize("shape", [(64, 96), (128, 64)])
def test_answers_are_right_at_changing_sizes(engine: OrtEngine, shape: tuple[int, int]) -> None:
    session = engine.session()
    for seed, (height, width) in enumerate([shape, (64, 64), shape]):
        images = np.stack([picture(height, width, seed), picture(height, width, seed + 9)])
        answer = session.run({"image": images})["logits"]
        for image, logits in zip(images, answer, strict=True):
            np.testing.assert_allclose(logits, little_logits(image), atol=1e-3)


def test_the_buffer_is_the_same_until_the_shape_changes(engine: OrtEngine) -> None:
    session = engine.session()
    first = session.run({"image": picture(64, 64)[None]})["logits"]
    second = session.run({"image": picture(64, 64, 1)[None]})["logits"]
    assert first is second
    assert session.run({"image": picture(64, 96)[None]})["logits"] is not first


def test_a_view_with_strides_is_taken_as_it_looks(engine: OrtEngine) -> None:
    image = picture(64, 192)[:, ::2, ::-1]
    answer = engine.session().run({"image": image[None]})["logits"][0]
    np.testing.assert_allclose(answer, little_logits(np.ascontiguousarray(image)), atol=1e-3)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"image": np.zeros((1, 64, 64, 3), np.float32)},
        {"image": np.zeros((64, 64, 3), np.uint8)},
        {"image": np.zeros((1, 3, 64, 64), np.uint8)},
    ],
)
def test_other_inputs_are_refused(engine: OrtEngine, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(RunError, match="'image' is"):
        engine.session().run(arrays)


def test_closed_is_closed_and_twice_is_safe(engine: OrtEngine) -> None:
    session = engine.session()
    for _ in range(2):
        session.close()
        engine.close()
    with pytest.raises(RunError):
        session.run({"image": picture(64, 64)[None]})
    with pytest.raises(RunError):
        engine.session()


def test_a_broken_file_is_an_onnx_file_error(tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OnnxFileError, match="does not load"):
        OrtEngine(path)


def test_unknown_and_absent_providers(tmp_path: Path) -> None:
    import onnxruntime

    with pytest.raises(BackendError, match="provider 'gpu'"):
        OrtOptions(provider="gpu")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        OrtEngine(write_little(tmp_path / "m.onnx"), OrtOptions(provider="cuda"))
