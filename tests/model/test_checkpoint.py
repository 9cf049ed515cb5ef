"""Checkpoints in every published spelling give the logits of the networks that wrote them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.checkpoint import load_checkpoint, model_from_checkpoint
from segformer_deploy.spec import FrameSize
from tests.model.checkpoint_builders import (
    CLASSES,
    NAMES,
    mmseg_file,
    new_names,
    nvlabs_file,
    tiny_transformers,
)

IMAGE = torch.randn(1, 3, 72, 104, generator=torch.Generator().manual_seed(7)).double()
EPS64 = torch.finfo(torch.float64).eps


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small lose time on several threads, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, nn.Module]:
    """A transformers folder as transformers saves it, and its network."""
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    model = tiny_transformers(layer_norm_eps=1e-6)
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may change."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in saved[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def assert_same_logits(
    source: object, reference: nn.Module, tolerance: float = 1e5 * EPS64
) -> None:
    """In float64, where another epsilon or a swapped tensor cannot hide in rounding."""
    ours = model_from_checkpoint(load_checkpoint(source)).double()
    with torch.no_grad():
        wanted = reference.double()(IMAGE)
        wanted = getattr(wanted, "logits", wanted)
        found = ours(IMAGE)
    reference.float()
    assert found.shape == (1, CLASSES, 18, 26)
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_transformers_folder_whose_config_names_an_epsilon_that_transformers_ignores(saved):
    folder, model = saved
    assert json.loads((folder / "config.json").read_text())["layer_norm_eps"] == 1e-6
    assert any(".attention.self.query." in name for name in load_file(folder / "model.safetensors"))
    assert_same_logits(folder, model)


def test_the_tolerance_tells_the_epsilons_apart(saved):
    checkpoint = load_checkpoint(saved[0])
    config = dataclasses.replace(checkpoint.config, block_eps=1e-6)
    other = model_from_checkpoint(dataclasses.replace(checkpoint, config=config)).double()
    with torch.no_grad():
        wanted = model_from_checkpoint(checkpoint).double()(IMAGE)
        difference = (other(IMAGE) - wanted).abs().max() / wanted.abs().max()
    assert difference > 1e6 * EPS64


def test_module_names_of_transformers_5(saved, folder):
    file = folder / "model.safetensors"
    state = new_names(load_file(file))
    assert set(state) == set(saved[1].state_dict())
    save_file(state, file)
    assert_same_logits(folder, saved[1])


def test_pickled_weights(saved, folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert_same_logits(folder, saved[1])


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_with_an_index(saved, folder, suffix):
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    save = save_file if suffix == "safetensors" else torch.save
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(state), {}
    for number, part in enumerate((names[:50], names[50:]), start=1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_same_logits(folder, saved[1])
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(set(weight_map.values()))
    ]
    wanted = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_checkpoint(folder).spec.weights.sha256 == wanted


def test_the_weight_file_of_a_folder_stands_for_the_folder(saved):
    assert_same_logits(saved[0] / "model.safetensors", saved[1])


def test_a_wrapped_model_and_a_missing_batch_counter(saved, folder):
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["decode_head.batch_norm.num_batches_tracked"]
    save_file({f"module.{name}": value for name, value in state.items()}, file)
    assert_same_logits(folder, saved[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_fp32(folder, dtype):
    file = folder / "model.safetensors"
    state = load_file(file)
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_file(cast, file)
    loaded = load_checkpoint(folder).state
    assert set(loaded) == set(state)
    for name, value in loaded.items():
        assert value.dtype == (torch.float32 if cast[name].is_floating_point() else torch.int64)
        assert torch.equal(value, cast[name].to(value.dtype))


def test_authors_spelling(tmp_path):
    network = nvlabs_file(tmp_path / "segformer.tiny.pth")
    assert_same_logits(tmp_path / "segformer.tiny.pth", network)
    config = load_checkpoint(tmp_path / "segformer.tiny.pth").config
    assert (config.block_eps, config.embed_eps) == (1e-6, 1e-5)


def test_a_bare_state_dict_in_pytorchs_old_file_format(tmp_path):
    path = tmp_path / "old.pth"
    network = nvlabs_file(path)
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same_logits(path, network)


def test_mmsegmentation_spelling(tmp_path):
    network = mmseg_file(tmp_path / "mmseg.pth")
    # The fold of each stage's batch norm was rounded to FP32 once.
    tolerance = 32 * torch.finfo(torch.float32).eps
    assert_same_logits(tmp_path / "mmseg.pth", network, tolerance)
    assert load_checkpoint(tmp_path / "mmseg.pth").config.stage_activation


def test_the_spec_of_a_transformers_folder(saved):
    checkpoint = load_checkpoint(saved[0])
    spec = checkpoint.spec
    assert spec.variant == "custom"
    assert spec.class_names == tuple(NAMES)
    assert spec.resize.size == FrameSize(512, 512)
    assert spec.weights.origin == "tiny"
    assert spec.weights.licence == "unknown"
    file = (saved[0] / "model.safetensors").read_bytes()
    assert spec.weights.sha256 == hashlib.sha256(file).hexdigest()
    assert any("no preprocessor_config.json" in note for note in checkpoint.notes)
    assert not model_from_checkpoint(checkpoint).training


def test_published_sizes_are_recognised(tmp_path):
    from transformers import SegformerConfig as Config
    from transformers import SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(Config(num_labels=3))
    model.save_pretrained(tmp_path / "b0")
    assert load_checkpoint(tmp_path / "b0", variant="b0", classes=3).spec.variant == "b0"
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "b0", variant="b1")
    assert "is a SegFormer b0" in caught.value.found
    assert "b1 was asked for" in caught.value.found
    assert "--variant b0" in caught.value.next_step
