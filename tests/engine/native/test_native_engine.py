"""The compiled network against transformers in float64, and against what it must refuse."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.engine.native.library import VARIABLE, VARIANTS, chosen_variant, load_library
from segformer_deploy.engine.session import Engine, Session
from segformer_deploy.errors import BackendError, RunError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer, config_for, random_segformer
from tests.engine.native.compiled import force_variant, missing_for
from tests.little import write_little
from tests.model.tiny import TINY, normalised, random_frames, same_weights, spec_for

SMALL = replace(TINY, head_channels=24)
"""Maps that are walked by vectors are a multiple of eight wide, as in B0 to B5."""


def saved(model: Segformer, path: Path) -> Path:
    onnx.save(onnx_from_model(model, spec_for(model.config)), path)
    return path


def logits_of(path: Path, frames: np.ndarray, threads: int = 2) -> np.ndarray:
    engine = NativeEngine(path, threads)
    session = engine.session()
    answer = session.run({"image": frames})["logits"].copy()
    session.close()
    engine.close()
    return answer


def double_logits(model, frames: np.ndarray) -> np.ndarray:
    """Transformers' or our PyTorch network in float64."""
    with torch.no_grad():
        answer = model(normalised(frames, torch.float64))
    return np.asarray(getattr(answer, "logits", answer))


def assert_equal_to_rounding(found: np.ndarray, expected: np.ndarray) -> None:
    """Float32's rounding: a hundred thousandth of the largest logit."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """(ONNX file, transformers' network in float64) of the same weights."""
    folder = tmp_path_factory.mktemp("small")
    ours, theirs = same_weights(SMALL, folder, seed=3)
    return saved(ours, folder / "small.onnx"), theirs.double()


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return force_variant(monkeypatch, request.param)


# The same answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 64, 64), (2, 96, 65), (1, 70, 98), (3, 65, 161), (1, 128, 256)),
        (1, 64, 556),  # more than the decoder takes of a row at once, three times
    ],
)
def test_logits_are_those_of_transformers(small, variant: str, shape) -> None:
    path, theirs = small
    frames = random_frames(*shape, seed=sum(shape))
    assert_equal_to_rounding(logits_of(path, frames), double_logits(theirs, frames))


@given(st.integers(64, 200), st.integers(64, 200), st.integers(1, 3))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_size(small, variant: str, height: int, width: int, threads: int) -> None:
    path, theirs = small
    frames = random_frames(1, height, width, seed=height * width)
    assert_equal_to_rounding(logits_of(path, frames, threads), double_logits(theirs, frames))


@pytest.mark.parametrize("classes", [1, 2, 11, 19, 150, 257])
def test_any_number_of_classes(tmp_path: Path, variant: str, classes: int) -> None:
    ours, theirs = same_weights(replace(SMALL, classes=classes), tmp_path, seed=classes)
    frames = random_frames(1, 72, 100)
    found = logits_of(saved(ours, tmp_path / "m.onnx"), frames)
    assert_equal_to_rounding(found, double_logits(theirs.double(), frames))


def test_maps_that_are_no_whole_vectors(tmp_path: Path, variant: str) -> None:
    """Hidden maps of 24, 80, 200 and 320 channels, a head of 40: multiples of 8, not of 16."""
    config = replace(SMALL, widths=(6, 20, 50, 80), head_channels=40)
    ours, theirs = same_weights(config, tmp_path, seed=11)
    path = saved(ours, tmp_path / "m.onnx")
    for height, width in ((64, 64), (72, 100), (65, 300)):
        frames = random_frames(1, height, width)
        assert_equal_to_rounding(logits_of(path, frames), double_logits(theirs.double(), frames))


def test_a_head_with_an_activation_per_stage(tmp_path: Path, variant: str) -> None:
    model = random_segformer(replace(SMALL, stage_activation=True), 5)
    frames = random_frames(1, 80, 112)
    found = logits_of(saved(model, tmp_path / "m.onnx"), frames)
    assert_equal_to_rounding(found, double_logits(model.double(), frames))


@pytest.mark.parametrize("name", ["b0", "b1"])
def test_published_widths(tmp_path: Path, variant: str, name: str) -> None:
    """B0's heads are 32 wide, all others' 64."""
    ours, theirs = same_weights(config_for(name, 19), tmp_path, seed=1)
    frames = random_frames(1, 96, 128)
    found = logits_of(saved(ours, tmp_path / "m.onnx"), frames)
    assert_equal_to_rounding(found, double_logits(theirs.double(), frames))


@pytest.mark.parametrize("reductions", [(1, 1, 1, 1), (2, 1, 1, 1)])
def test_more_keys_than_one_pass_takes(
    tmp_path: Path, variant: str, reductions: tuple[int, int, int, int]
) -> None:
    """Up to 33 x 41 keys, no multiple of any vector; a pass takes 256."""
    ours, theirs = same_weights(replace(SMALL, reductions=reductions), tmp_path, seed=6)
    frames = random_frames(1, 130, 164)
    found = logits_of(saved(ours, tmp_path / "m.onnx"), frames)
    assert_equal_to_rounding(found, double_logits(theirs.double(), frames))


def test_sharp_attention(tmp_path: Path, variant: str) -> None:
    """Scores in the hundreds: the softmax must take the largest away before exp."""
    model = random_segformer(SMALL, 4)
    for key, value in model.state_dict().items():
        if key.endswith("self.query.weight"):
            value.mul_(60)
    frames = random_frames(1, 64, 96)
    found = logits_of(saved(model, tmp_path / "m.onnx"), frames)
    with torch.no_grad():
        single = np.asarray(model(normalised(frames)))
    expected = double_logits(model.double(), frames)
    # A choice between keys magnifies rounding, PyTorch's in float32 as well as ours.
    assert np.abs(found - expected).max() <= 4 * np.abs(single - expected).max()
    assert np.abs(single - expected).max() <= 1e-3 * np.abs(expected).max()


def test_the_number_of_threads_changes_no_bit(small, variant: str) -> None:
    frames = random_frames(2, 130, 166)
    one, two, five = (logits_of(small[0], frames, threads) for threads in (1, 2, 5))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, five)


def test_what_is_not_a_number_stays_so(tmp_path: Path, variant: str) -> None:
    model = random_segformer(SMALL, 2)
    weight = model.state_dict()["segformer.encoder.patch_embeddings.0.proj.weight"]
    weight[0, 0, 0, 0] = float("nan")
    found = logits_of(saved(model, tmp_path / "m.onnx"), random_frames(1, 64, 64))
    assert np.isnan(found).all()


# The protocol ---------------------------------------------------------------------------------


def test_it_keeps_the_protocol(small) -> None:
    engine = NativeEngine(small[0], 1)
    assert isinstance(engine, Engine)
    assert isinstance(engine.session(), Session)
    assert engine.name.startswith("native ")
    assert engine.output_shapes({"image": (2, 65, 96, 3)}) == {"logits": (2, 7, 17, 24)}


def test_sizes_may_change_and_come_back(small) -> None:
    path, theirs = small
    session = NativeEngine(path, 2).session()
    for seed, size in enumerate([(64, 96), (160, 64), (64, 96), (64, 64)]):
        frames = random_frames(1, *size, seed=seed)
        found = session.run({"image": frames})["logits"]
        assert_equal_to_rounding(found, double_logits(theirs, frames))


def test_the_buffer_is_the_same_until_the_shape_changes(small) -> None:
    session = NativeEngine(small[0], 1).session()
    first = session.run({"image": random_frames(1, 64, 64)})["logits"]
    assert session.run({"image": random_frames(1, 64, 64, seed=1)})["logits"] is first
    assert session.run({"image": random_frames(1, 64, 96)})["logits"] is not first


def test_two_sessions_do_not_meet(small) -> None:
    path, theirs = small
    engine = NativeEngine(path, 2)
    one, two = engine.session(), engine.session()
    a, b = random_frames(1, 64, 96, seed=1), random_frames(1, 64, 96, seed=2)
    first = one.run({"image": a})["logits"]
    second = two.run({"image": b})["logits"]
    assert_equal_to_rounding(first, double_logits(theirs, a))
    assert_equal_to_rounding(second, double_logits(theirs, b))


def test_sessions_run_at_the_same_time(small) -> None:
    path, theirs = small
    engine = NativeEngine(path, 3)

    def many_runs(seed: int) -> np.ndarray:
        session, frames = engine.session(), random_frames(1, 64, 96, seed=seed)
        first = session.run({"image": frames})["logits"].copy()
        for _ in range(30):
            np.testing.assert_array_equal(session.run({"image": frames})["logits"], first)
        session.close()
        return first

    with ThreadPoolExecutor(4) as threads:
        for seed, found in enumerate(threads.map(many_runs, range(4))):
            expected = double_logits(theirs, random_frames(1, 64, 96, seed=seed))
            assert_equal_to_rounding(found, expected)


def test_closed_is_closed_and_twice_is_safe(small) -> None:
    engine = NativeEngine(small[0], 2)
    session = engine.session()
    session.run({"image": random_frames(1, 64, 64)})
    for _ in range(2):
        session.close()
        engine.close()
    with pytest.raises(RunError):
        session.run({"image": random_frames(1, 64, 64)})
    with pytest.raises(RunError):
        engine.session()


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 64, 64, 3), np.float32), np.zeros((64, 64, 3), np.uint8)],
)
def test_other_inputs_are_refused(small, image: np.ndarray) -> None:
    with pytest.raises(RunError, match="'image' is"):
        NativeEngine(small[0], 1).session().run({"image": image})


def test_frames_below_the_smallest_side_are_refused(small) -> None:
    with pytest.raises(RunError, match="32x64"):
        NativeEngine(small[0], 1).session().run({"image": np.zeros((1, 32, 64, 3), np.uint8)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_its_own_threads(small) -> None:
    session = NativeEngine(small[0], 2).session()
    frames = random_frames(1, 64, 96)
    expected = session.run({"image": frames})["logits"].copy()
    child = os.fork()
    if child == 0:
        same = np.array_equal(session.run({"image": frames})["logits"], expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# What it must refuse --------------------------------------------------------------------------


def refused(path: Path, model: onnx.ModelProto, match: str) -> None:
    onnx.save(model, path)
    with pytest.raises(BackendError, match=match) as caught:
        NativeEngine(path, 1)
    assert "onnxruntime" in caught.value.next_step


def test_an_added_operation_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    last = model.graph.node[-1]
    name = last.output[0]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Sigmoid", ["before"], [name]))
    refused(tmp_path / "m.onnx", model, "Sigmoid")


def test_an_added_weight_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "scale"))
    refused(tmp_path / "m.onnx", model, "scale")


def test_a_swapped_operation_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.op_type = "Relu"
    refused(tmp_path / "m.onnx", model, "Gelu")


def test_a_tanh_gelu_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("approximate", "tanh"))
    refused(tmp_path / "m.onnx", model, "approximate")


def test_a_resize_with_other_rules_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.op_type == "Resize")
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode":
            attribute.s = b"align_corners"
    refused(tmp_path / "m.onnx", model, "Resize")


def value_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


@pytest.mark.parametrize(
    "name",
    [
        *("mean", "decoder.classifier.bias", "stage1.block0.norm1.weight"),
        *("stage1.block0.norm1.bias", "stage2.block0.ffn.expand.bias"),
        *("stage1.block0.attention.output.bias", "stage3.embed_norm.weight"),
    ],
)
def test_a_weight_that_would_be_broadcast_is_refused(small, tmp_path: Path, name: str) -> None:
    model = onnx.load(small[0])
    tensor = value_of(model, name)
    one = numpy_helper.to_array(tensor).reshape(-1)[:1].copy()
    tensor.CopyFrom(numpy_helper.from_array(one, name))
    refused(tmp_path / "m.onnx", model, "shape|size|is")


@pytest.mark.parametrize(
    "name",
    ["frames.centred", "stage1.block0.out", "stage2.block0.attention.scores", "decoder.sum3"],
)
def test_swapped_inputs_are_refused(small, tmp_path: Path, name: str) -> None:
    """Sums do not mind, but nobody has to reason about which nodes are sums."""
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.name == name)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    refused(tmp_path / "m.onnx", model, "other values")


def test_swapped_keys_and_values_are_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.op_type == "Split")
    node.output[0], node.output[1] = node.output[1], node.output[0]
    refused(tmp_path / "m.onnx", model, "other values")


def test_another_order_of_axes_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.op_type == "Transpose")
    node.attribute[0].ints[:] = [0, 3, 2, 1]
    refused(tmp_path / "m.onnx", model, "perm")


def test_another_target_of_a_reshape_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    tensor = next(one for one in model.graph.initializer if one.name.startswith("shape.0_minus1_"))
    values = numpy_helper.to_array(tensor)[::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(BackendError):
        onnx.save(model, tmp_path / "m.onnx")
        NativeEngine(tmp_path / "m.onnx", 1)


def test_a_node_more_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    model.graph.node.append(helper.make_node("Transpose", ["frames.nchw"], ["more"], name="more"))
    refused(tmp_path / "m.onnx", model, "'more'")


def test_a_convolution_that_leaves_its_pads_out_is_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    node = next(node for node in model.graph.node if node.name == "stage1.block0.ffn.expand")
    kept = [one for one in node.attribute if one.name not in ("pads", "strides")]
    del node.attribute[:]
    node.attribute.extend(kept)
    refused(tmp_path / "m.onnx", model, "expand")


@pytest.mark.parametrize(
    "change", [{"strides": (2, 2, 2, 2)}, {"patch_sizes": (4, 3, 3, 3)}], ids=str
)
def test_a_first_stage_of_another_size_is_refused(tmp_path: Path, change) -> None:
    """Its logits would not have a quarter of the frame's sides."""
    model = random_segformer(replace(SMALL, **change), 0)
    onnx.save(onnx_from_model(model, spec_for(model.config)), tmp_path / "m.onnx")
    with pytest.raises(BackendError, match="first stage"):
        NativeEngine(tmp_path / "m.onnx", 1)


def test_an_input_that_a_stage_cannot_reduce_is_refused(tmp_path: Path) -> None:
    model = random_segformer(replace(SMALL, reductions=(20, 4, 2, 1)), 0)
    session = NativeEngine(saved(model, tmp_path / "m.onnx"), 1).session()
    with pytest.raises(RunError, match="64x64: nothing is left of it in stage 1"):
        session.run({"image": random_frames(1, 64, 64)})
    assert np.isfinite(session.run({"image": random_frames(1, 96, 96)})["logits"]).all()


def test_a_class_map_inside_is_refused(small, tmp_path: Path) -> None:
    refused(tmp_path / "m.onnx", append_class_map(onnx.load(small[0])), "no logits")


def test_half_weights_are_refused(small, tmp_path: Path) -> None:
    model = onnx.load(small[0])
    tensor = next(t for t in model.graph.initializer if t.name.endswith("query.weight"))
    half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
    tensor.CopyFrom(half)
    refused(tmp_path / "m.onnx", model, "weight")


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot run this graph"):
        NativeEngine(write_little(tmp_path / "m.onnx"), 1)


def test_widths_that_no_vector_walks_are_refused(tmp_path: Path) -> None:
    path = saved(random_segformer(TINY, 0), tmp_path / "m.onnx")
    with pytest.raises(BackendError, match="multiple of 8"):
        NativeEngine(path, 1)


def test_the_best_variant_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert load_library().variant == [one for one in VARIANTS if not missing_for(one)][-1]


@pytest.mark.parametrize("best", VARIANTS)
def test_a_variant_for_a_later_processor_is_refused(best: str) -> None:
    runs = VARIANTS[: VARIANTS.index(best) + 1]
    assert chosen_variant("", best) == best
    for asked in VARIANTS:
        if asked in runs:
            assert chosen_variant(asked, best) == asked
        else:
            with pytest.raises(BackendError, match=f"{asked} on a processor that runs {best}"):
                chosen_variant(asked, best)


def test_an_unknown_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx10")
    with pytest.raises(BackendError, match="avx10"):
        load_library()
