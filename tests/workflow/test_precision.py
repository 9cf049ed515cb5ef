"""An FP32 graph becomes an FP16 or INT8 graph that was judged on frames of its own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from segformer_deploy.calibrate.ranges import read_ranges
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.errors import InputError, OnnxFileError, VerificationError
from segformer_deploy.graph.equalise import equalise
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.graph.metadata import checked_spec, precision_of
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.workflow import frame_choice
from segformer_deploy.workflow import precision as precision_module
from segformer_deploy.workflow.gate import Budget
from segformer_deploy.workflow.judge import Judge
from segformer_deploy.workflow.precision import (
    Candidate,
    PrecisionOptions,
    candidate_from_onnx,
)
from segformer_deploy.workflow.sensitivity import blocks_of
from tests.graph.lively import nodes_of, scale_weight, weights_of
from tests.workflow.small import (
    ANYTHING,
    hurry,
    label_pictures,
    pictures,
    rgb,
    saved,
    small_model,
    small_spec,
)

KEPT = Path("calibration") / "small.ranges.json"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    saved(tmp_path / "small.onnx")
    pictures(tmp_path / "frames", 8)
    return tmp_path


def candidate(place: Path, precision: Any = "int8", **changes: Any) -> Candidate:
    fields = {"calibration": place / "frames", "budget": ANYTHING, **changes}
    options = PrecisionOptions(precision, **fields)
    return candidate_from_onnx(place / "small.onnx", small_spec(), options)


def graph_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.graph.SerializeToString(deterministic=True))


def types_of(model: onnx.ModelProto) -> Counter[int]:
    return Counter(tensor.data_type for tensor in model.graph.initializer)


# ---- what the graphs are ---------------------------------------------------------------------


def test_int8_is_the_equalised_graph_with_qdq(place: Path) -> None:
    recipe = Recipe(attention=True, depthwise=True)
    found = candidate(place, recipe=recipe)
    ranges = read_ranges(KEPT)
    by_hand = insert_qdq(equalise(small_model(), ranges.scales()), ranges.ranges, recipe)
    assert graph_bytes(found.model) == graph_bytes(by_hand)
    assert checked_spec(found.model) == small_spec().with_(precision="int8")
    said = precision_of(found.model)
    assert said["recipe"] == recipe.to_dict()
    assert (said["recipe"]["attention"], said["recipe"]["first_convolution"]) == (True, False)
    assert said["kept"] == {}
    assert (said["spelling"], said["elsewhere"]) == ("unsigned", "fp32")
    assert said["equalised"] == sorted(ranges.equalisation)
    assert found.notes == ()
    details = json.loads(json.dumps(found.details))
    assert (details["precision"], details["target"]) == ("int8", "cpu")
    assert details["calibration"]["frames"] == 6
    assert details["calibration"]["warnings"]
    assert details["macs"]["size"] == "64x96"
    assert 0 < details["macs"]["all"]["int8"] < details["macs"]["all"]["all"]
    assert details["macs"]["first_convolution"]["int8"] == 0
    assert details["macs"]["ffn.depthwise"]["int8"] == details["macs"]["ffn.depthwise"]["all"]
    gate = details["gate"]
    assert (gate["frames"], gate["labels"], gate["max_drop"]) == (2, False, 100)


def test_for_a_gpu_int8_is_signed_and_the_rest_fp16(place: Path) -> None:
    found = candidate(place, target="gpu")
    said = precision_of(found.model)
    assert (said["spelling"], said["elsewhere"]) == ("signed", "fp16")
    assert said["recipe"] == Recipe().to_dict()
    types = types_of(found.model)
    assert types[TensorProto.UINT8] == 0
    assert types[TensorProto.INT8] > 0
    # Only what an island or the input needs is left in FP32.
    assert types[TensorProto.FLOAT16] > 4 * types[TensorProto.FLOAT]
    zeros = {name: v for name, v in weights_of(found.model).items() if "zero_point" in name}
    assert not any(np.any(value) for value in zeros.values())
    assert checked_spec(found.model).precision == "int8"
    assert found.details["target"] == "gpu"


def test_fp16_needs_no_ranges(place: Path) -> None:
    found = candidate(place, "fp16")
    assert not KEPT.exists()
    assert checked_spec(found.model) == small_spec().with_(precision="fp16")
    assert precision_of(found.model) == {"islands": {}, "kept": {}, "logits": "fp32"}
    assert types_of(found.model)[TensorProto.FLOAT16] > 50
    assert found.details["gate"]["full_recipe"]["agreement"] > 99
    assert found.details["bytes"]["fp16"] < 0.6 * found.details["bytes"]["fp32"]


def test_what_fp16_cannot_hold_stays_in_fp32(place: Path) -> None:
    model = small_model()
    # The norm behind it takes the factor out again.
    scale_weight(model, "stage2.embed.weight", 1e6)
    scale_weight(model, "stage2.embed.bias", 1e6)
    saved(place / "small.onnx", model)
    said: list[str] = []
    options = PrecisionOptions("fp16", calibration=place / "frames", budget=ANYTHING)
    found = candidate_from_onnx(place / "small.onnx", small_spec(), options, said.append)
    islands = precision_of(found.model)["islands"]
    assert any(name.startswith("stage2.embed") for name in islands)
    assert any("stays in FP32" in line and "stage2.embed" in line for line in said)
    weight = nodes_of(found.model)["stage2.embed"].input[1]
    (tensor,) = (t for t in found.model.graph.initializer if t.name == weight)
    assert tensor.data_type == TensorProto.FLOAT
    assert found.details["gate"]["verdict"]["agreement"] > 95


def test_a_graph_that_is_no_fp32_graph_is_refused(place: Path) -> None:
    saved(place / "small.onnx", candidate(place).model)
    with pytest.raises(OnnxFileError, match="already in int8"):
        candidate(place)


# ---- the gate --------------------------------------------------------------------------------


def test_blocks_that_went_back_are_in_the_graph_and_told(place: Path) -> None:
    whole = candidate(place)
    reached = whole.details["gate"]["full_recipe"]["agreement"]
    found = candidate(place, budget=Budget(100, reached + 0.01))
    gate = found.details["gate"]
    kept = list(gate["kept"])
    assert kept == [one["block"] for one in gate["ranking"]][: len(kept)]
    assert 0 < len(kept) < len(blocks_of(small_model(), Recipe()))
    assert gate["verdict"]["agreement"] >= reached + 0.01
    assert precision_of(found.model)["kept"] == gate["kept"]
    assert [note.split()[0] for note in found.notes] == kept
    # INT8 where the whole recipe has it, except in those blocks.
    int8 = {name for name in weights_of(found.model) if name.endswith(".weight.quantized")}
    before = {name for name in weights_of(whole.model) if name.endswith(".weight.quantized")}
    gone = {name for name in before if any(name.startswith(f"{block}.") for block in kept)}
    assert gone
    assert int8 == before - gone


def test_fp16_outside_the_budget_is_refused(place: Path) -> None:
    with pytest.raises(VerificationError, match=r"fp16: 99\.\d\d % of the pixels agree"):
        candidate(place, "fp16", budget=Budget(100, 100))


def test_int8_outside_the_budget_with_every_block_returned_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: Budget, __: Any) -> str:
        return "never enough"

    monkeypatch.setattr(Budget, "excess", never)
    blocks = ("stage2.embed", "stage3.embed")
    monkeypatch.setattr(precision_module, "blocks_of", lambda *_: blocks)
    with pytest.raises(VerificationError, match="never enough, with 2 of 2 blocks"):
        candidate(place)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_force_builds_outside_the_budget_and_says_so(place: Path, precision: str) -> None:
    found = candidate(place, precision, budget=Budget(0, 100), force=True)
    assert found.details["gate"]["kept"] == {}
    assert len(found.notes) == 1
    assert found.notes[0].startswith("built although ")
    assert "% of the pixels agree" in found.notes[0]


# ---- frames of their own ---------------------------------------------------------------------


def hashes_of(files: list[Path]) -> set[str]:
    """What a ranges file says of frames that enter the network as they are."""
    return {hashlib.sha256(b"64x96x3:" + rgb(path).tobytes()).hexdigest() for path in files}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The hashes of the frames of each judge."""
    found: list[set[str]] = []

    class Spy(Judge):
        def __init__(self, model: onnx.ModelProto, frames: Any, on_step: Any = None) -> None:
            images = [frame.image for frame in frames]
            found.append({hashlib.sha256(b"64x96x3:" + i.tobytes()).hexdigest() for i in images})
            super().__init__(model, frames, on_step)

    monkeypatch.setattr(precision_module, "Judge", Spy)
    return found


@pytest.mark.parametrize(("count", "left"), [(2, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_folder_of_few_frames_leaves_a_quarter_to_judge_on(
    place: Path, judged: list[set[str]], count: int, left: int
) -> None:
    folder = pictures(place / "few", count, seed=4)
    candidate(place, calibration=folder)
    calibrated = set(read_ranges(KEPT).frames)
    everything = hashes_of(sorted(folder.iterdir()))
    assert len(everything) == count
    assert not judged[0] & calibrated
    assert judged[0] | calibrated == everything
    assert len(judged[0]) == left


def test_a_gate_that_ranks_keeps_to_frames_that_calibration_left(
    place: Path, judged: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter(["too much", None])
    monkeypatch.setattr(Budget, "excess", lambda *_: next(verdicts))
    blocks = ("stage2.embed", "stage3.embed")
    monkeypatch.setattr(precision_module, "blocks_of", lambda *_: blocks)
    assert len(candidate(place, samples=3).notes) == 1
    calibrated = set(read_ranges(KEPT).frames)
    assert len(calibrated) == 3
    assert len(judged) == 2, "nothing was ranked"
    for frames in judged:
        assert len(frames) == 5
        assert not frames & calibrated


def test_frames_for_the_gate_leave_all_others_to_calibration(
    place: Path, judged: list[set[str]]
) -> None:
    gate, labels = pictures(place / "gate", 3, seed=6), label_pictures(place / "labels", 3)
    found = candidate(place, gate=(gate, labels))
    assert len(read_ranges(KEPT).frames) == 8
    assert judged[0] == hashes_of(sorted(gate.iterdir()))
    said = found.details["gate"]
    assert (said["frames"], said["labels"], said["origin"]) == (3, True, str(gate))
    assert said["full_recipe"]["miou"] > 0


def test_the_report_has_its_own_frames_where_they_are_named(place: Path) -> None:
    gate = pictures(place / "gate", 3, seed=6)
    report = (pictures(place / "report", 2, seed=7), label_pictures(place / "labels", 2))
    details = candidate(place, gate=(gate, None), report=report).details
    assert (details["gate"]["frames"], details["gate"]["labels"]) == (3, False)
    assert details["gate"]["full_recipe"]["miou"] is None
    assert (details["report"]["frames"], details["report"]["labels"]) == (2, True)


def test_one_frame_alone_cannot_both_calibrate_and_judge(place: Path) -> None:
    one = pictures(place / "one", 1)
    with pytest.raises(InputError, match="takes every frame of") as caught:
        candidate(place, calibration=one)
    assert "--gate-images" in caught.value.next_step
    assert not KEPT.exists()


def test_ranges_alone_leave_no_frames_to_judge_a_foreign_model_on(place: Path) -> None:
    candidate(place)
    with pytest.raises(InputError, match="no frames were named to judge") as caught:
        candidate(place, calibration=KEPT)
    assert "--gate-images" in caught.value.next_step
    gate = (pictures(place / "gate", 2, seed=6), None)
    assert candidate(place, calibration=KEPT, gate=gate).details["calibration"]["frames"] == 6


@pytest.mark.slow
def test_the_demo_model_needs_no_frames_and_loses_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_file = shipped_file(ONNX_FILE)
    if onnx_file is None:
        pytest.skip("installed without the demo model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frame_choice, "_STREET_GATE_FRAMES", 4)
    options = PrecisionOptions("int8", samples=4, budget=ANYTHING)
    found = candidate_from_onnx(onnx_file, spec_from_onnx(onnx_file), options)
    verdict = found.details["gate"]["full_recipe"]
    assert found.details["gate"]["labels"] is True
    assert verdict["miou_fp32"] > 50
    assert abs(verdict["drop"]) < 2
    assert verdict["agreement"] > 97
