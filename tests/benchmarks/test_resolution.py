"""mIoU over input sizes, and the receptive field: gradients of the files that are deployed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import receptive_field  # noqa: E402
import resolution  # noqa: E402
from receptive_field_graph import TorchGraph  # noqa: E402

from segformer_deploy import Segmenter  # noqa: E402
from segformer_deploy.bench.accuracy import ConfusionMatrix  # noqa: E402
from segformer_deploy.bench.labels import pair_files  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from tests.little import write_little  # noqa: E402

ROOT = BENCHMARKS.parent
MODEL = ROOT / "models" / "segformer-b0-streets" / "model.onnx"
RANGES = ROOT / "calibration" / "model.ranges.json"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        small = random.integers(0, 256, (8, 12, 3), np.uint8)
        picture = cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture)
        # What is the largest of red, green and blue is what the little network looks for.
        label = picture[:, :, ::-1].argmax(axis=2).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), label)
    return tmp_path


def test_each_size_is_scored_at_the_frames_own_size(data: Path) -> None:
    engine = write_little(data / "little.onnx")
    pairs = pair_files(data / "images", data / "labels")
    found = resolution.measured(engine, pairs, ["64x96", "128x160"], threads=1)
    assert (found["trained_at"], found["images"]) == ("64x96", 2)
    for one in found["sizes"]:
        matrix = ConfusionMatrix(3)
        with Segmenter(engine, size=FrameSize.parse(one["size"])) as segment:
            for pair in pairs:
                label = cv2.imread(str(pair.label), cv2.IMREAD_GRAYSCALE)
                class_map = segment(cv2.imread(str(pair.image)))
                assert class_map.shape == label.shape
                matrix.update(class_map, label)
        assert one["miou"] == pytest.approx(100 * (matrix.miou or 0))
    assert [one["aspect"] for one in found["sizes"]] == ["kept", "stretched"]


def test_the_table_names_the_size_trained_at() -> None:
    sizes = [("480x640", 40.0), ("360x480", 42.5), ("192x256", 31.25)]
    rows = [{"size": size, "aspect": "kept", "miou": score} for size, score in sizes]
    assert resolution.table({"trained_at": "360x480", "sizes": rows}) == [
        "| 192x256 | kept | 0.28 | 31.25 | -11.25 |",
        "| **360x480**, trained at | kept | 1.00 | 42.50 |  |",
        "| 480x640 | kept | 1.78 | 40.00 | -2.50 |",
    ]


def test_the_list_keeps_what_it_says() -> None:
    for text in resolution.KEPT:
        size = FrameSize.parse(text)
        assert size.height * 4 == size.width * 3
    for text in resolution.STRETCHED:
        size = FrameSize.parse(text)
        assert size.height * 4 != size.width * 3


def test_errors_are_said_not_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", "demo", "--data", str(tmp_path), "--output"]
    assert resolution.main([*arguments, str(tmp_path / "r.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.floats(0.01, 1.0), st.integers(0, 99))
def test_half_side_is_the_smallest_square(half: int, share: float, seed: int) -> None:
    mass = np.random.default_rng(seed).random((2 * half, 2 * half)) + 1e-3
    found = receptive_field.half_side(mass, share)

    def held(side: int) -> float:
        part = slice(half - side, half + side)
        return float(mass[part, part].sum() / mass.sum())

    assert found == int(found)
    assert held(int(found)) >= share - 1e-9
    assert found == 1 or held(int(found) - 1) < share + 1e-9


@pytest.fixture(scope="module")
def graphs() -> dict[str, onnx.ModelProto]:
    model = onnx.load(MODEL)
    return {"fp32": model, "int8": receptive_field.int8_graph(model, RANGES)}


def by_onnxruntime(model: onnx.ModelProto, frame: Any, names: list[str]) -> list[Any]:
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
    return list(session.run(names, {"image": frame[None]}))


def test_the_graph_answers_as_onnxruntime(graphs: dict[str, onnx.ModelProto]) -> None:
    (frame,) = receptive_field.frames(1, 96)
    image = torch.from_numpy(frame)[None].float()
    names = [*receptive_field.STAGES, "logits"]
    found = TorchGraph(graphs["fp32"])(image, names)
    for name, expected in zip(names, by_onnxruntime(graphs["fp32"], frame, names), strict=True):
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_int8_rounds_on_the_files_grid(graphs: dict[str, onnx.ModelProto]) -> None:
    (frame,) = receptive_field.frames(1, 96)
    # Early values alone: where sums are a rounding apart, grids amplify it layer by layer.
    names = ["stage1.block0.norm1.dequantized", "stage1.block0.attended"]
    found = TorchGraph(graphs["int8"])(torch.from_numpy(frame)[None].float(), names)
    expected = by_onnxruntime(graphs["int8"], frame, names)
    exact = by_onnxruntime(graphs["fp32"], frame, names[1:])
    for name, reference in zip(names, expected, strict=True):
        moved = np.abs(found[name].numpy() - reference) > 1e-3
        assert moved.mean() < 1e-3
    assert np.abs(expected[1] - exact[0]).mean() > 1e-3


def test_straight_through_passes_inside_the_range_alone() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["out"]),
    ]
    grid = [
        onnx.numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        onnx.numpy_helper.from_array(np.array(128, np.uint8), "zero"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "pair", [], [], grid))
    image = torch.tensor([-100.0, -64.0, 0.25, 0.75, 63.5, 70.0], requires_grad=True)
    out = TorchGraph(model)(image, ["out"])["out"]
    # Halves go to the even step: 0.25 is half a step, 0.75 one and a half.
    assert out.tolist() == [-64.0, -64.0, 0.0, 1.0, 63.5, 63.5]
    out.sum().backward()
    assert image.grad is not None
    assert image.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_gradients_are_what_a_small_change_does(graphs: dict[str, onnx.ModelProto]) -> None:
    (frame,) = receptive_field.frames(1, 64)
    graph = TorchGraph(graphs["fp32"])
    image = torch.from_numpy(frame)[None].float().requires_grad_()

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        return receptive_field.middle(graph(pixels, ["logits"])["logits"], "logits")

    (gradient,) = torch.autograd.grad(answer(image), image)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        step = 0.5
        change = answer(image + step * direction) - answer(image - step * direction)
    assert float(change) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.1)


def test_fields_are_shares_of_one(graphs: dict[str, onnx.ModelProto]) -> None:
    (frame,) = receptive_field.frames(1, 64)
    found = receptive_field.fields_of(TorchGraph(graphs["int8"]), frame)
    assert len(found) == 9
    for name, mass in found.items():
        stride = receptive_field.STRIDE[name.split(" <- ")[1]]
        assert mass.shape == (64 // stride, 64 // stride)
        assert mass.sum() == pytest.approx(1)
        assert (mass >= 0).all()


def test_results_are_json(graphs: dict[str, onnx.ModelProto], monkeypatch: Any) -> None:
    monkeypatch.setattr(
        receptive_field, "frames", lambda count: iter([np.zeros((64, 64, 3), np.uint8)] * count)
    )
    rows, total = receptive_field.receptive_fields(graphs["fp32"], 2, lambda text: None)
    assert json.loads(json.dumps(rows)) == rows
    assert set(rows) == set(total)
    for row in rows.values():
        assert len(row["of_each_frame_px"]) == 2
        assert row["half_side_px"] == sorted(row["half_side_px"])
