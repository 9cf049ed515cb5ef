"""The check lets rounding pass and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional

from segformer_deploy.errors import OnnxFileError, VerificationError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.verify import enlarged_logits, noise_frames, verify_against
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import random_segformer
from segformer_deploy.spec import FrameSize
from tests.model.tiny import TINY, normalised, spec_for

SHAPES = [(1, 96, 65), (2, 64, 96)]
MODEL = random_segformer(TINY, 1)


@pytest.fixture
def graph() -> onnx.ModelProto:
    return onnx_from_model(MODEL, spec_for(TINY))


def reference(frames):
    with torch.no_grad():
        return MODEL(normalised(frames)).numpy()


def change(graph: onnx.ModelProto, name: str, edit) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == name:
            array = edit(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return
    raise AssertionError(name)


def test_an_exact_graph_passes_and_is_reported(graph) -> None:
    report = verify_against(graph, reference, SHAPES)
    assert report.shapes == tuple(SHAPES)
    assert 0 < report.relative < 1e-5
    assert report.relative == report.max_abs_diff / report.largest_logit
    assert 0 <= report.exempt_share < 1e-3


def test_a_file_is_checked_like_a_graph(graph, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(graph, path)
    assert verify_against(path, reference, SHAPES) == verify_against(str(path), reference, SHAPES)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(OnnxFileError, match=r"m\.onnx"):
        verify_against(path, reference, SHAPES)


def test_a_weight_that_is_off_is_found(graph) -> None:
    change(graph, "stage4.block0.ffn.contract.weight", lambda a: a * 1.01)
    with pytest.raises(VerificationError, match="logit differs"):
        verify_against(graph, reference, SHAPES)


def test_the_smallest_size_and_a_batch_of_its_own_are_not_skipped(graph) -> None:
    """Wrong only for the second frame of a batch: the last case must be looked at."""

    def second_frame_off(frames):
        logits = reference(frames)
        logits[1:] += 1
        return logits

    verify_against(graph, second_frame_off, SHAPES[:1])
    with pytest.raises(VerificationError, match="batch 2"):
        verify_against(graph, second_frame_off, SHAPES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_named(graph, value: float) -> None:
    def spoil(array):
        array.flat[3] = value
        return array

    change(graph, "stage2.block0.norm1.weight", spoil)
    with pytest.raises(VerificationError, match=r"stage2\.block0\.norm1\.weight"):
        verify_against(graph, reference, SHAPES)


def test_logits_that_are_not_numbers_are_refused(graph) -> None:
    with pytest.raises(VerificationError, match="the reference's logits"):
        verify_against(graph, lambda f: np.full_like(reference(f), np.nan), SHAPES)
    # Finite weights, infinite logits.
    change(graph, "decoder.classifier.bias", lambda a: a + np.float32(3e38))
    change(graph, "decoder.classifier.weight", lambda a: a * np.float32(1e38))
    with pytest.raises(VerificationError, match="the graph's logits"):
        verify_against(graph, reference, SHAPES)


def test_another_shape_is_refused(graph) -> None:
    with pytest.raises(VerificationError, match="shape"):
        verify_against(graph, lambda f: reference(f)[:, :, 1:], SHAPES)


def test_nothing_to_check_is_refused(graph) -> None:
    with pytest.raises(VerificationError, match="no frame sizes"):
        verify_against(graph, reference, [])


def test_class_maps_are_checked_at_the_frames_size(graph) -> None:
    mapped = append_class_map(graph)
    report = verify_against(mapped, reference, SHAPES)
    assert report.exempt_share < 0.01
    change(mapped, "decoder.classifier.bias", lambda a: a + np.eye(7, dtype=np.float32)[2])
    with pytest.raises(VerificationError, match="another class"):
        verify_against(mapped, reference, SHAPES)


def test_nearest_neighbour_enlarging_is_caught(graph) -> None:
    """The near miss that two toolkits ship: argmax first, then enlarge."""
    mapped = append_class_map(graph)
    (resize,) = (n for n in mapped.graph.node if n.name == "class_map.resized")
    for attribute in resize.attribute:
        if attribute.name == "mode":
            attribute.s = b"nearest"
    with pytest.raises(VerificationError, match="another class"):
        verify_against(mapped, reference, SHAPES)


@pytest.mark.parametrize("size", [(64, 96), (97, 133), (20, 31)])
def test_enlarged_logits_are_pytorchs(size: tuple[int, int]) -> None:
    logits = torch.randn(3, 16, 23, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(logits[None].double(), size, mode="bilinear")[0].numpy()
    found = enlarged_logits(logits.numpy(), FrameSize(*size), slice(5, 17))
    np.testing.assert_allclose(found, expected[:, 5:17], atol=1e-12)


def test_frames_vary_and_follow_the_seed() -> None:
    frames = noise_frames(2, FrameSize(70, 90), 1)
    assert (frames.dtype, frames.shape) == (np.uint8, (2, 70, 90, 3))
    assert np.array_equal(frames, noise_frames(2, FrameSize(70, 90), 1))
    assert not np.array_equal(frames[0], frames[1])
    assert len(np.unique(reference(frames).argmax(axis=1))) > 1
