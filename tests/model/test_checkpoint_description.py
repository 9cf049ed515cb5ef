"""What a checkpoint says besides its weights, against transformers' own processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.checkpoint import load_checkpoint
from segformer_deploy.model.checkpoint_description import (
    description_from_meta,
    description_from_transformers,
    reduced_labels,
)
from segformer_deploy.spec import MEAN_IMAGENET, STD_IMAGENET, FrameSize, ResizeRule
from tests.model.checkpoint_builders import NAMES, nvlabs_file, tiny_transformers

CITYSCAPES = ["road", "sidewalk", "building", "wall", *(f"thing {i}" for i in range(15))]
ADE20K = ["wall", "building", "sky", "floor", *(f"thing {i}" for i in range(146))]
CONFIG_TEXT = """
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='Resize', img_scale=(4096, 999), ratio_range=(0.5, 2.0)),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(2048, 640), flip=False,
         transforms=[dict(type='Resize', keep_ratio=True)])
]
data = dict(val=dict(reduce_zero_label=False))
"""


def described(processor: dict | None, classes: int = 5, **config: object):
    return description_from_transformers(config, processor, classes)


@pytest.mark.parametrize("size", [640, {"height": 360, "width": 480}, [360, 480]])
@pytest.mark.parametrize(
    ("resample", "name"), [(0, "pillow-nearest"), (2, "pillow-bilinear"), (3, "pillow-bicubic")]
)
def test_sizes_and_filters(size, resample, name):
    wanted = FrameSize(640, 640) if size == 640 else FrameSize(360, 480)
    found = described({"size": size, "resample": resample}).resize
    assert found == ResizeRule.stretch_to(wanted, name)


def test_other_resizes():
    assert described({"do_resize": False}).resize.mode == "none"
    rule = described({"size": {"shortest_edge": 512, "longest_edge": 2048}, "resample": 3}).resize
    assert rule == ResizeRule("short_side", None, 512, 2048, "pillow-bicubic")
    with pytest.raises(CheckpointError, match="filter number 1"):
        described({"resample": 1})


@pytest.mark.parametrize(
    "processor",
    [{"size": {"depth": 3}}, {"size": "big"}, {"image_mean": [0.5]}, {"rescale_factor": "x"}],
)
def test_a_processor_that_does_not_read(processor):
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json does not read"):
        described(processor)


@given(
    do_rescale=st.booleans(),
    do_normalize=st.booleans(),
    factor=st.sampled_from([1 / 255, 0.00392156862745098, 1 / 128, 1.0]),
    mean=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 1), min_size=3, max_size=3),
)
def test_mean_and_std_give_the_numbers_of_transformers_processor(
    do_rescale, do_normalize, factor, mean, std
):
    """Ours: (x / 255 - mean) / std, in float64, for every value that a pixel can have."""
    from transformers.models.segformer.image_processing_pil_segformer import (
        SegformerImageProcessorPil,
    )

    values = {
        "do_resize": False,
        "do_rescale": do_rescale,
        "rescale_factor": factor,
        "do_normalize": do_normalize,
        "image_mean": mean,
        "image_std": std,
    }
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    processor = SegformerImageProcessorPil(**values)
    wanted = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    found = described(values)
    ours = (pixels / 255 - np.array(found.mean)) / np.array(found.std)
    scale = float(np.abs(wanted).max()) + 1
    assert np.abs(ours.transpose(2, 0, 1) - wanted).max() <= 16 * np.finfo(np.float32).eps * scale


def test_reduced_labels_as_transformers_reduces_them():
    from transformers.models.segformer.image_processing_pil_segformer import (
        SegformerImageProcessorPil,
    )

    labels = np.arange(256, dtype=np.uint8)
    wanted = SegformerImageProcessorPil().reduce_label(labels).tolist()
    table = reduced_labels(150)
    assert {value: wanted[value] for value in [*range(151), 255]} == table
    for key in ("do_reduce_labels", "reduce_labels"):
        found = described({key: True}, 150, semantic_loss_ignore_index=7)
        assert found.label_map == table
        assert found.ignore_index == 255
    assert described({}, semantic_loss_ignore_index=7).ignore_index == 7
    assert described({}).label_map is None


def test_class_names_keep_their_numbers():
    shuffled = {str(i): NAMES[i] for i in (3, 0, 4, 1, 2)}
    assert described({}, id2label=shuffled).class_names == tuple(NAMES)
    nameless = described({})
    assert nameless.class_names[0] == "class 0"
    assert any("names no classes" in note for note in nameless.notes)


def test_the_meta_of_a_file(tmp_path):
    palette = [[i, 2 * i, 255 - i] for i in range(5)]
    path = tmp_path / "x.pth"
    nvlabs_file(path, meta={"CLASSES": NAMES, "PALETTE": palette, "config": CONFIG_TEXT})
    checkpoint = load_checkpoint(path)
    spec = checkpoint.spec
    assert spec.class_names == tuple(NAMES)
    assert spec.palette == tuple(tuple(colour) for colour in palette)
    assert (spec.mean, spec.std) == (MEAN_IMAGENET, STD_IMAGENET)
    assert spec.resize == ResizeRule("short_side", None, 640, 2048, "opencv-bilinear")
    assert spec.label_map is None
    assert spec.weights.licence == "non-commercial (NVIDIA Source Code License)"
    assert checkpoint.notes == ()


def test_the_meta_of_mmsegmentation_1():
    text = """
data_preprocessor = dict(bgr_to_rgb=True, mean=[127.5, 127.5, 127.5], std=[51.0, 51.0, 51.0])
test_pipeline = [
    dict(keep_ratio=False, scale=(480, 360), type='Resize'),
    dict(reduce_zero_label=True, type='LoadAnnotations'),
]
"""
    dataset = {"classes": tuple(NAMES), "palette": [[1, 2, 3]] * 5}
    found = description_from_meta({"dataset_meta": dataset, "cfg": text}, 5)
    assert found.class_names == tuple(NAMES)
    assert found.palette == ((1, 2, 3),) * 5
    assert found.resize == ResizeRule.stretch_to(FrameSize(360, 480), "opencv-bilinear")
    assert (found.mean, found.std) == ((0.5,) * 3, (0.2,) * 3)
    assert found.label_map == reduced_labels(5)


@pytest.mark.parametrize(
    ("names", "short", "reduced"),
    [(CITYSCAPES, 1024, False), (ADE20K, 512, True), (None, 512, False)],
)
def test_a_silent_meta_takes_the_usual_values_of_its_data_set(names, short, reduced):
    classes = len(names) if names else 5
    found = description_from_meta({"CLASSES": names} if names else {}, classes)
    assert found.resize == ResizeRule("short_side", None, short, 2048, "opencv-bilinear")
    assert (found.label_map == reduced_labels(classes)) == reduced
    assert any("states no resize" in note for note in found.notes)
    assert any("no class names" in note for note in found.notes) == (names is None)
    assert len(found.palette) == classes


def test_metas_that_cannot_be_used():
    with pytest.raises(CheckpointError, match="BGR frames"):
        description_from_meta({"config": "img_norm_cfg = dict(to_rgb=False)"}, 5)
    with pytest.raises(CheckpointError, match="palette does not read"):
        description_from_meta({"PALETTE": [[1, 2]] * 5}, 5)


@pytest.mark.parametrize(
    ("card", "origin", "licence"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# Model\n", "", "mit"),
        ('---\nlicense: "apache-2.0" # words\n---\n', "", "apache-2.0"),
        ("---\nlicense: other\n---\n", "nvidia/x", "non-commercial (NVIDIA Source Code License)"),
        ("---\nlicense: other\n---\n", "somebody/x", "other"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", "nvidia/x", "my-own"),
        ("# no front matter\nlicense: mit\n", "", "unknown"),
        (None, "nvidia/x", "non-commercial (NVIDIA Source Code License)"),
    ],
)
def test_the_licence_comes_from_the_model_card(tmp_path, card, origin, licence):
    folder = tmp_path / "model"
    tiny_transformers().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": origin}))
    if card is not None:
        (folder / "README.md").write_text(card)
    assert load_checkpoint(folder).spec.weights.licence == licence


def test_a_folder_named_like_the_reserved_word_is_not_taken_for_random_weights(tmp_path):
    tiny_transformers().save_pretrained(tmp_path / "random")
    weights = load_checkpoint(Path(tmp_path / "random")).spec.weights
    assert weights.origin == "./random"
    assert not weights.random
