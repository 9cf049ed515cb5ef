"""Ranges of a graph on frames: NumPy's, on the graph that will be quantised, bit for bit again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from segformer_deploy.calibrate.calibration import CalibrationOptions, calibrate
from segformer_deploy.calibrate.histograms import BINS
from segformer_deploy.calibrate.ranges import Ranges, read_ranges
from segformer_deploy.errors import InputError, MediaError, OnnxFileError, VerificationError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.equalise import equalise, knobs_of
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq, quantised_values
from tests.calibrate.given_frames import GivenFrames, some_frames
from tests.graph.lively import (
    add_to_weight,
    lively_model,
    logits_of,
    scale_weight,
    values_of,
)
from tests.model.tiny import random_frames

PLAIN = CalibrationOptions("minmax", equalise=False)


def saved(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    path = folder / "model.onnx"
    onnx.save(model or lively_model(), path)
    return path


def magnitudes(model: onnx.ModelProto, frames: GivenFrames) -> dict[str, npt.NDArray[Any]]:
    """All that each value takes on `frames`."""
    names = quantised_values(model)
    runs = [values_of(model, names, frame.image[None]) for frame in frames]
    return {name: np.abs(np.concatenate([run[name].ravel() for run in runs])) for name in names}


def uneven_model() -> onnx.ModelProto:
    """Two norms with a channel a hundred times as large as the others."""
    model = lively_model()
    scale = np.ones(8)
    scale[2] = 100
    for block in ("stage1.block0.norm1", "stage1.block0.norm2"):
        for name in ("weight", "bias"):
            scale_weight(model, f"{block}.{name}", scale)
    readers = {"attention.reduce": (1, 8, 1, 1), "ffn.expand": (1, 8, 1, 1)}
    for reader, shape in readers.items():
        scale_weight(model, f"stage1.block0.{reader}.weight", 1 / scale.reshape(shape))
    scale_weight(model, "stage1.block0.attention.query.weight", 1 / scale[:, None])
    return model


def test_minmax_is_numpy_s(tmp_path: Path) -> None:
    frames = some_frames()
    found = calibrate(saved(tmp_path), frames, PLAIN)
    seen = magnitudes(lively_model(), frames)
    assert list(found.ranges) == list(quantised_values(lively_model()))
    for name, values in seen.items():
        assert found.ranges[name] == pytest.approx(values.max(), rel=1e-5), name
    assert found.largest == found.ranges
    assert found.equalisation == {}


@pytest.mark.parametrize("percentile", [90.0, 99.9, 100.0])
def test_percentiles_are_numpy_s_within_a_bin(tmp_path: Path, percentile: float) -> None:
    frames = some_frames()
    options = CalibrationOptions("percentile", percentile, equalise=False)
    found = calibrate(saved(tmp_path), frames, options)
    for name, values in magnitudes(lively_model(), frames).items():
        width = float(values.max()) / BINS
        expected = np.percentile(values, percentile, method="inverted_cdf")
        assert found.ranges[name] == pytest.approx(expected, abs=1.5 * width), name


def test_ranges_are_those_of_the_even_graph(tmp_path: Path) -> None:
    model, frames = uneven_model(), some_frames()
    found = calibrate(saved(tmp_path, model), frames, CalibrationOptions("percentile", 100))
    assert {"stage1.block0.norm1", "stage1.block0.norm2"} <= found.equalisation.keys()
    assert found.equalisation.keys() <= {knob.norm for knob in knobs_of(model)}
    even = equalise(model, found.scales())
    for name, values in magnitudes(even, frames).items():
        assert found.largest[name] == pytest.approx(values.max(), rel=1e-4), name
        assert found.ranges[name] == pytest.approx(values.max(), rel=1e-3), name


def test_even_ranges_bring_int8_nearer(tmp_path: Path) -> None:
    model, frames = uneven_model(), random_frames(2, 64, 96, seed=1)
    exact = logits_of(model, frames)
    errors = []
    for even in (False, True):
        options = CalibrationOptions("minmax", equalise=even)
        ranges = calibrate(saved(tmp_path, model), some_frames(), options)
        graph = insert_qdq(equalise(model, ranges.scales()), ranges.ranges)
        errors.append(np.sqrt(np.mean((logits_of(graph, frames, literal=True) - exact) ** 2)))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_second_run_gives_the_same_bits(tmp_path: Path, method) -> None:
    model = saved(tmp_path)
    one, two = (calibrate(model, some_frames(), CalibrationOptions(method)) for _ in range(2))
    assert one == two
    one.write(tmp_path / "one")
    two.write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_ranges(tmp_path / "one") == one
    for name, value in one.ranges.items():
        assert 0 < value <= one.largest[name]


def test_ranges_serve_every_recipe(tmp_path: Path) -> None:
    ranges = calibrate(saved(tmp_path), some_frames())
    even = equalise(lively_model(), ranges.scales())
    for recipe in (Recipe(), Recipe.everything()):
        for spelling in ("signed", "unsigned"):
            onnx.checker.check_model(insert_qdq(even, ranges.ranges, recipe, spelling))


def test_ranges_say_where_they_come_from(tmp_path: Path) -> None:
    frames, path = (
        GivenFrames(*random_frames(1, 64, 96), *random_frames(1, 97, 133)),
        saved(tmp_path),
    )
    found = calibrate(path, frames)
    assert found.graph_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.frames == tuple(frame.sha256 for frame in frames)
    assert (found.network, found.origin) == ("64x96", "a test")
    assert (found.method, found.percentile) == ("percentile", 99.999)
    assert found.misfit(found.graph_sha256, frames=found.frames, method="percentile") is None


class Witness:
    """Stands in for a FrameChecker."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    def add(self, frame: npt.NDArray[np.uint8], name: str) -> None:
        self.seen.append((name, frame.tobytes()))


@pytest.mark.parametrize(("method", "passes"), [("percentile", 2), ("entropy", 2), ("minmax", 1)])
def test_progress_counts_frames_and_a_checker_sees_each_once(
    tmp_path: Path, method, passes: int
) -> None:
    frames, done, witness = some_frames(), list[int](), Witness()
    options = CalibrationOptions(method)
    calibrate(saved(tmp_path), frames, options, on_frame=done.append, checker=witness)  # type: ignore[arg-type]
    assert done == list(range(1, passes * len(frames) + 1))
    assert witness.seen == [(frame.name, frame.image.tobytes()) for frame in frames]


def test_a_network_of_nan_is_refused(tmp_path: Path) -> None:
    broken = lively_model()
    add_to_weight(broken, "stage3.embed.bias", np.nan)
    with pytest.raises(VerificationError, match="NaN"):
        calibrate(saved(tmp_path, broken), some_frames())


def test_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"):
        calibrate(saved(tmp_path), GivenFrames())


def test_only_an_fp32_graph_with_logits_has_ranges(tmp_path: Path) -> None:
    ranges = calibrate(saved(tmp_path), some_frames(1), PLAIN)
    assert isinstance(ranges, Ranges)
    for model in (
        append_class_map(lively_model()),
        cast_fp16(lively_model()),
        insert_qdq(lively_model(), ranges.ranges),
    ):
        with pytest.raises(OnnxFileError):
            calibrate(saved(tmp_path, model), some_frames(1))


def test_a_dead_network_has_ranges_of_0(tmp_path: Path) -> None:
    """All norms give 0: grids of zeros, no division by 0, and INT8 that still answers."""
    model = lively_model()
    for tensor in list(model.graph.initializer):
        if ".norm" in tensor.name or "_norm" in tensor.name:
            scale_weight(model, tensor.name, 0)
    for method in ("minmax", "percentile", "entropy"):
        ranges = calibrate(saved(tmp_path, model), some_frames(1), CalibrationOptions(method))
        assert ranges.ranges["stage1.norm"] == 0
        graph = insert_qdq(equalise(model, ranges.scales()), ranges.ranges)
        assert np.isfinite(logits_of(graph, random_frames(1, 64, 64), literal=True)).all()


@pytest.mark.parametrize(
    "wrong",
    [{"method": "guess"}, {"percentile": 49.9}, {"percentile": 100.1}, {"percentile": np.nan}],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        CalibrationOptions(**wrong)
