"""The comparison of INT8 files: its arithmetic, its tables, and a run with tools that are fakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import int8_peers  # noqa: E402
from int8_runners import measure, report, tools  # noqa: E402
from int8_runners.child import Job  # noqa: E402
from int8_runners.options import DEFAULT_TOOLS, Ours, Tool, read_options  # noqa: E402
from int8_runners.quantised import quantised  # noqa: E402
from int8_runners.reader import FrameReader  # noqa: E402
from int8_runners.timing import times  # noqa: E402

from segformer_deploy.errors import InputError, SegdeployError  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from tests.little import little_model, little_spec, write_little  # noqa: E402

NEEDED = ["--model", "m.onnx", "--images", "i", "--labels", "l"]


def int8_little(scale: float = 1.0) -> onnx.ModelProto:
    """The little network with Q/DQ around its convolution; `scale` is the activation's."""
    model = little_model()
    graph = model.graph
    weight = next(tensor for tensor in graph.initializer if tensor.name == "weight")
    whole = np.rint(numpy_helper.to_array(weight) * 127).astype(np.int8)
    graph.initializer.remove(weight)
    for name, value in (
        ("scale", np.float32(scale)),
        ("zero", np.int8(0)),
        ("weight_q", whole),
        ("weight_scale", np.float32(1 / 127)),
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    convolution = graph.node.pop()
    graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["mean", "scale", "zero"], ["mean_q"]),
            helper.make_node("DequantizeLinear", ["mean_q", "scale", "zero"], ["mean_dq"]),
            helper.make_node("DequantizeLinear", ["weight_q", "weight_scale", "zero"], ["weight"]),
            helper.make_node("Conv", ["mean_dq", "weight", "bias"], list(convolution.output)),
        ]
    )
    return model


def write_pairs(folder: Path, count: int = 3) -> tuple[Path, Path]:
    """Frames of one colour per half, and labels that call both halves red; a corner is void."""
    images, labels = folder / "images", folder / "labels"
    for path in (images, labels):
        path.mkdir(parents=True)
    for index in range(count):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[:, :48, 2], frame[:, 48:, 1], frame[..., 0] = 200, 200, index
        label = np.zeros((64, 96), np.uint8)
        label[:8, :8] = 255
        cv2.imwrite(str(images / f"f{index}.png"), frame)
        cv2.imwrite(str(labels / f"f{index}.png"), label)
    return images, labels


class TestOptions:
    def test_every_tool_once_unless_named(self) -> None:
        options = read_options([*NEEDED, "--calibration", "c"], "")
        assert options.only == DEFAULT_TOOLS

    def test_what_a_run_clears_holds_nothing_else(self) -> None:
        options = read_options([*NEEDED, "--calibration", "c", "--work", "w"], "")
        assert options.modelopt_python.is_relative_to("w")
        assert options.files.is_relative_to("w")
        assert options.files != Path("w")
        assert not options.modelopt_python.is_relative_to(options.files)

    def test_names_and_none(self) -> None:
        options = read_options(
            [*NEEDED, "--only", "none", "--ours", "a=x.onnx", "--ours", "b=y=z.onnx"], ""
        )
        assert options.only == []
        assert options.ours == [Ours("a", Path("x.onnx")), Ours("b", Path("y=z.onnx"))]

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ([], "--only none leaves them out"),
            (["--only", "tflite"], "'tflite' is none of"),
            (["--only", "none", "--ours", "x.onnx"], "is not NAME=FILE.onnx"),
            (["--only", "none", "--ours", "fp32=x.onnx"], "the name fp32 stands for two files"),
            (["--calibration", "c", "--ours", "modelopt=x.onnx"], "modelopt stands for two files"),
            (["--calibration", "c", "--samples", "0"], "is not a whole number above 0"),
            (["--calibration", "c", "--size", "large"], "size 'large'"),
            (["--calibration", "c", "--prepare", "--modelopt-python", "p"], "leave one out"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            read_options([*NEEDED, *extra], "")
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


class TestFrames:
    @pytest.mark.parametrize(
        ("count", "places"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))]
    )
    def test_evenly_spread(self, count: int, places: list[int]) -> None:
        files = [Path(str(index)) for index in range(10)]
        assert tools.evenly_spread(files, count) == [files[place] for place in places]

    def test_the_reader_hands_out_what_the_network_sees(self, tmp_path: Path) -> None:
        images, _ = write_pairs(tmp_path)
        files = sorted(images.iterdir())
        tools.write_frames(files, little_spec(), tmp_path / "frames")
        taken: list[int] = []
        reader = FrameReader(tmp_path / "frames", taken.append)
        first = reader.get_first()["image"]
        assert len(reader) == 3
        assert first.shape == (1, 64, 96, 3)
        assert first.dtype == np.uint8
        assert first[0, 0, 0].tolist() == [200, 0, 0]  # RGB, though the file was read as BGR
        assert sum(1 for _ in iter(reader.get_next, None)) == 3
        reader.rewind()
        again = reader.get_next()
        assert again is not None
        assert (again["image"] == first).all()
        assert taken == [1, 2, 3, 1]


class TestQuantised:
    def test_fp32_has_none(self) -> None:
        found = quantised(little_model(), FrameSize(64, 96))
        assert (found.macs, found.int8_macs, found.share) == (16 * 24 * 9, 0, 0.0)

    def test_a_convolution_between_dequantised_inputs_counts(self) -> None:
        found = quantised(int8_little(), FrameSize(64, 96))
        assert found.share == 1.0
        assert (found.products, found.int8_products, found.floating) == (1, 1, ())

    def test_a_weight_before_its_q_is_in_floating_point(self) -> None:
        assert quantised(int8_little(), FrameSize(64, 96)).floating_weights == 0
        model = little_model()
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
        quantiser = helper.make_node("QuantizeLinear", ["weight", "scale"], ["weight_q"])
        model.graph.node.insert(0, quantiser)
        assert quantised(model, FrameSize(64, 96)).floating_weights == 1

    def test_layout_between_does_not_matter_but_arithmetic_does(self) -> None:
        size = FrameSize(64, 96)
        for kind, counts in (("Transpose", True), ("Relu", False)):
            model = int8_little()
            extra = {"perm": [0, 1, 2, 3]} if kind == "Transpose" else {}
            model.graph.node.insert(
                len(model.graph.node) - 1, helper.make_node(kind, ["mean_dq"], ["moved"], **extra)
            )
            model.graph.node[-1].input[0] = "moved"
            model.graph.node[-1].name = "conv"
            found = quantised(model, size)
            assert (found.int8_products == 1) is counts
            assert found.floating == (() if counts else ("conv",))

    def test_a_weight_in_floating_point_does_not_count(self) -> None:
        model = int8_little()
        model.graph.initializer.append(
            numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "plain")
        )
        model.graph.node[-1].input[1] = "plain"
        assert quantised(model, FrameSize(64, 96)).share == 0.0


class TestAgainst:
    def test_shares_of_equal_pixels(self) -> None:
        frames = [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)]
        first = measure.Against(lambda f: np.zeros(f.shape[:2], np.uint8), keep=True)
        for frame in frames:
            first(frame)
        assert first.agreement is None
        assert first.worst is None

        def other(frame: Any) -> Any:
            answer = np.zeros(frame.shape[:2], np.uint8)
            answer[0, 0] = frame.shape[1] == 2
            return answer

        second = measure.Against(other, first.found)
        for frame in frames:
            second(frame)
        assert second.agreement == pytest.approx(100 * 11 / 12)
        assert second.worst == pytest.approx(75.0)

    def test_other_classes_are_refused(self, tmp_path: Path) -> None:
        path = write_little(tmp_path / "m.onnx")
        four = little_spec(class_names=tuple("abcd"), palette=(*little_spec().palette, (9, 9, 9)))
        with pytest.raises(InputError, match="logits"):
            with measure.opened(path, four, 1):
                pass

    def test_as_stated_computes_q_and_dq(self, tmp_path: Path) -> None:
        path = tmp_path / "int8.onnx"
        path.write_bytes(int8_little(scale=2.0).SerializeToString())
        image = np.full((1, 64, 96, 3), 101, np.uint8)
        with measure.opened(path, little_spec(), 1, as_stated=True) as engine:
            logits = engine.session().run({"image": image})["logits"]
        # 101 / 2 rounds half to even: 50, so 100; the weights are exactly 1 and 0.
        assert logits[0, :, 0, 0].tolist() == [100.0, 100.25, 99.5]


def test_times_are_ratios_to_the_first(tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    image = np.zeros((1, 64, 96, 3), np.uint8)
    found = times({"fp32": path, "b": path}, image, threads=1, rounds=3, warm_up=1)
    assert len(found["b"]["samples_ms"]) == 3
    assert found["fp32"]["speed_up"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}


def test_vector_flags(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("model name\t: X\nflags\t\t: fpu sse avx2 avx fma\n")
    assert report.vector_flags(tmp_path / "x86") == ["avx", "avx2", "fma"]
    assert report.vector_flags(tmp_path / "none") == []


class TestTools:
    def test_modelopt_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SegdeployError, match="does not exist") as caught:
            tools.interpreters(DEFAULT_TOOLS, tmp_path / "bin" / "python", make=False)
        assert "--prepare" in caught.value.next_step

    def test_an_environment_without_modelopt(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
        with pytest.raises(SegdeployError, match="has no ModelOpt"):
            tools.interpreters(DEFAULT_TOOLS, python, make=False)

    def test_a_tool_that_fails_is_named_with_its_last_words(self, tmp_path: Path) -> None:
        model, frames = write_little(tmp_path / "m.onnx"), tmp_path / "frames"
        frames.mkdir()
        wrong = Tool("wrong", "no_such_runner", "x")
        with pytest.raises(SegdeployError, match=r"wrong made no INT8 file.*no_such_runner"):
            tools.quantise(wrong, sys.executable, model, frames, tmp_path / "work", 1)

    def test_the_job_survives_the_command_line(self) -> None:
        job = Job(Path("a b.onnx"), Path("f"), Path("-o.onnx"), "p")
        assert job.arguments()[0] == "--model=a b.onnx"
        assert "--output=-o.onnx" in job.arguments()


def run(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    code = int8_peers.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


class TestRun:
    def test_onnxruntime_and_ours(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """ONNX Runtime's products alone, its INT8 of the little network beside ours."""
        images, labels = write_pairs(tmp_path)
        model = write_little(tmp_path / "fp32.onnx")
        ours = tmp_path / "ours.onnx"
        ours.write_bytes(int8_little().SerializeToString())
        arguments = ["--model", model, "--calibration", images, "--samples", "2"]
        arguments += ["--images", images, "--labels", labels, "--work", tmp_path / "work"]
        arguments += ["--only", "onnxruntime-products", "--ours", f"ours={ours}", "--reference"]
        arguments += ["--output", tmp_path / "r.json", "--threads", "1"]
        code, data, err = run(arguments, capsys)
        assert code == 0
        assert data == json.loads((tmp_path / "r.json").read_text())
        fp32, theirs, own = data["results"]
        assert [one["name"] for one in data["results"]] == ["fp32", "onnxruntime-products", "ours"]
        # Half of each frame is green, all labels are red: red has IoU 1/2 (the void corner is
        # red), green 0, blue none.
        red = (64 * 48 - 64) / (64 * 96 - 64)
        assert fp32["score"]["miou"] == pytest.approx(100 * red / 2)
        assert fp32["score"]["per_class_iou"]["blue"] is None
        assert (fp32["score"]["agreement"], fp32["reference"]) == (None, None)
        for one in (theirs, own):
            assert one["score"]["agreement"] == 100.0
            assert one["score"]["drop"] == one["reference"]["drop"] == 0.0
            assert one["int8"]["share"] == 1.0
        assert theirs["made_by"]["settings"]["per_channel"] is False
        assert data["task"]["calibration_frames"] == ["f0.png", "f2.png"]
        assert data["command"].startswith("python benchmarks/int8_peers.py --model ")
        assert "Q and DQ computed one by one" in err

    def test_an_error_is_one_object(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images, labels = write_pairs(tmp_path)
        arguments = ["--model", tmp_path / "no.onnx", "--images", images, "--labels", labels]
        code, data, err = run([*arguments, "--only", "none"], capsys)
        assert code == 1
        assert data["error"]["kind"] == "OnnxFileError"
        assert err.startswith("error: ")
        assert "Traceback" not in err

    def test_a_work_folder_that_cannot_be_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images, labels = write_pairs(tmp_path)
        (tmp_path / "file").write_text("no folder")
        arguments = ["--model", write_little(tmp_path / "m.onnx"), "--calibration", images]
        arguments += ["--images", images, "--labels", labels, "--work", tmp_path / "file"]
        code, data, err = run([*arguments, "--only", "onnxruntime-products"], capsys)
        assert code == 1
        assert "file" in data["error"]["found"]
        assert err.splitlines()[-1].startswith("error: ")


def test_metadata_that_a_tool_dropped_is_noted(tmp_path: Path) -> None:
    bare = little_model()
    del bare.metadata_props[:]
    path = tmp_path / "bare.onnx"
    path.write_bytes(bare.SerializeToString())
    one = Ours("bare", path)
    result = int8_peers._result(one, None, one, FrameSize(64, 96))
    assert "metadata" in result["notes"][0]
    result |= {"notes_of_evaluation": ["common"], "time": None}
    noisy = {"ms": {"median": 1.0, "p90": 2.0}}
    both = report.notes([result, {**result, "name": "other", "time": noisy}])
    assert both[0].startswith("bare, other: ")
    assert both[1].startswith("other: the times scatter")
    assert both[2:] == ["common"]


def test_int8_type_of_the_fixture() -> None:
    """The fixture is what it claims to be: the checker accepts it."""
    model = int8_little()
    onnx.checker.check_model(model, full_check=True)
    assert TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
