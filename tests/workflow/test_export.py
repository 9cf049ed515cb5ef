"""The export command's one call, and the whole chain against transformers' own answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx
from segformer_deploy.errors import CheckpointError, SpecError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.export import (
    ExportOptions,
    default_onnx_path,
    export_onnx,
)
from tests.little import little_spec

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformers checkpoint that stretches frames to 96x128."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 20, 16],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=24,
        num_attention_heads=[1, 2, 5, 8],
        num_labels=4,
        initializer_range=0.3,
    )
    SegformerForSemanticSegmentation(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "SegformerImageProcessor",
                "size": {"height": 96, "width": 128},
                "resample": 2,
                "image_mean": MEAN.tolist(),
                "image_std": STD.tolist(),
            }
        )
    )
    return folder


def transformers_class_map(folder: Path, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """transformers' answer at the frame's size, and how far its two best classes are apart."""
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    picture = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
    pixels = np.asarray(picture.resize((128, 96), Image.Resampling.BILINEAR)) / 255.0
    image = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(
            model(image).logits, size=bgr.shape[:2], mode="bilinear", align_corners=False
        )
    best = logits[0].topk(2, dim=0).values
    return logits[0].argmax(0).numpy(), (best[0] - best[1]).numpy()


def test_chain_gives_transformers_masks(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = ExportOptions(checkpoint=str(checkpoint), output=tmp_path / "m.onnx")
    report = export_onnx(options, said.append)
    data = report.to_dict()
    assert set(data) >= {"onnx", "max_abs_diff", "macs", "parameters", "weights", "exempt_share"}
    assert json.loads(json.dumps(data))["onnx"] == str(tmp_path / "m.onnx")
    assert data["checked_sizes"] == [[1, 96, 128], [1, 97, 133], [2, 64, 96]]
    assert any("licence" in text for text in said)
    folder = build_engine(report.onnx, BuildOptions(output=tmp_path / "e")).folder
    frame = np.random.default_rng(3).integers(0, 256, (75, 110, 3), np.uint8)
    expected, gap = transformers_class_map(checkpoint, frame)
    assert len(np.unique(expected)) > 1
    with Segmenter(folder) as segment:
        answer = segment(frame)
    clear = gap > 4 * report.verification.max_abs_diff
    assert clear.mean() > 0.99
    assert np.array_equal(answer[clear], expected[clear])


def test_class_map_graph_agrees_with_our_runtime(checkpoint: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "logits.onnx", tmp_path / "map.onnx"]
    for path, class_map in zip(paths, (False, True), strict=True):
        options = ExportOptions(checkpoint=str(checkpoint), class_map=class_map, output=path)
        export_onnx(options, lambda _: None)
    assert spec_from_onnx(paths[1]).output == "class_map"
    onnx.checker.check_model(str(paths[1]), full_check=True)
    frame = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    with Segmenter(paths[0]) as ours, Segmenter(paths[1]) as graph:
        # The graph's float32 Resize rounds in another order: near-ties may fall either way.
        assert np.mean(ours(frame) == graph(frame)) > 0.999


def test_size_replaces_the_checkpoints_rule(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(
        checkpoint=str(checkpoint), size=FrameSize(64, 160), output=tmp_path / "m.onnx"
    )
    export_onnx(options, lambda _: None)
    assert spec_from_onnx(tmp_path / "m.onnx").resize.size == FrameSize(64, 160)


def test_random_weights_are_said_marked_and_repeatable(tmp_path: Path) -> None:
    said: list[str] = []
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        options = ExportOptions(classes=5, size=FrameSize(64, 64), output=path)
        report = export_onnx(options, said.append)
    assert any("random" in text for text in said)
    assert report.to_dict()["weights"] == "random"
    assert json.loads(read_onnx_header(paths[0]).metadata["segdeploy"])["weights"] == "random"
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_options_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    both = ExportOptions(checkpoint=str(checkpoint), random_weights=True)
    with pytest.raises(SpecError, match="both"):
        export_onnx(both, lambda _: None)
    with pytest.raises(SpecError, match="--classes 0"):
        export_onnx(ExportOptions(classes=0), lambda _: None)
    with pytest.raises(CheckpointError, match="b7"):
        export_onnx(ExportOptions(variant="b7"), lambda _: None)


@pytest.mark.parametrize(
    ("checkpoint", "class_map", "name"),
    [
        (None, False, "segformer-b0.onnx"),
        (None, True, "segformer-b0-class-map.onnx"),
        ("runs/mine", False, "mine.onnx"),
        ("nvidia/segformer-b0-ade-512", False, "segformer-b0-ade-512.onnx"),
        ("a b/model.pth", False, "model.onnx"),
    ],
)  # fmt: skip
def test_default_names(checkpoint: str | None, class_map: bool, name: str) -> None:
    options = ExportOptions(checkpoint=checkpoint, class_map=class_map)
    assert default_onnx_path(options, little_spec()) == Path("build") / name
