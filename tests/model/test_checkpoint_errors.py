"""Each thing that can be wrong with a checkpoint has its own message."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model import checkpoint
from segformer_deploy.model.checkpoint import load_checkpoint
from segformer_deploy.model.checkpoint_config import config_from_shapes, fitted_state
from segformer_deploy.model.checkpoint_names import canonical_state
from tests.model.checkpoint_builders import (
    CLASSES,
    HEADS,
    WIDTHS,
    MmsegNetwork,
    nvlabs_file,
    tiny_transformers,
)

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    tiny_transformers().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def pth(tmp_path) -> Path:
    nvlabs_file(tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def refusal(source: object, **asked: object) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, **asked)
    error = caught.value
    assert error.found
    assert error.expected
    assert error.next_step
    return error


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors, or remove them (None); ``__`` stands for a dot."""
    state = load_file(folder / WEIGHTS)
    for name, value in changes.items():
        if value is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = value
    save_file(state, folder / WEIGHTS)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_installation_without_demo_weights_says_so(monkeypatch):
    monkeypatch.setattr(checkpoint, "shipped_file", lambda _: None)
    assert "no demo weights" in refusal("demo").found


@pytest.mark.parametrize("name", ["nowhere", "nowhere.pth", "./a/b", "a/b/c", "a/b.pth"])
def test_a_missing_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(name).found == f"{name} does not exist"
    assert refusal(Path("owner/model")).found == "owner/model does not exist"


def test_a_folder_without_weights(folder):
    (folder / WEIGHTS).unlink()
    assert "has no weights" in refusal(folder).found


def test_a_folder_without_a_configuration(folder):
    (folder / "config.json").unlink()
    assert "config.json does not exist" in refusal(folder).found
    error = refusal(folder / WEIGHTS)
    assert "no config.json lies beside it" in error.found


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[1]", "holds a list"), ("", "is empty"), ("\xff", "is not JSON")],
)
def test_a_configuration_that_does_not_read(folder, text, message):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert message in refusal(folder).found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "model of type 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"num_channels": 4}, "num_channels = 4"),
        ({"depths": [1, 2, 1]}, "depths = [1, 2, 1]"),
        ({"depths": [1, 2, 1, float("inf")]}, "depths = [1, 2, 1, inf]"),
        ({"sr_ratios": [8, 4, 0, 1]}, "sr_ratios = [8, 4, 0, 1]"),
        ({"strides": [4, 2, 2.5, 2]}, "strides = [4, 2, 2.5, 2]"),
        ({"hidden_sizes": "8"}, "hidden_sizes = '8'"),
        ({"decoder_hidden_size": None}, "decoder_hidden_size = None"),
        ({"mlp_ratios": [4, 4, 8, 4]}, "mlp_ratios = [4, 4, 8, 4]"),
        ({"num_attention_heads": [3, 2, 5, 8]}, "8 channels with 3 attention heads"),
        ({"id2label": {"0": "road"}}, "names 1 classes, the classifier has 5 outputs"),
        ({"id2label": {str(i): "x" for i in range(1, 6)}}, "names 5 classes, the classifier has 5"),
    ],
)
def test_a_configuration_of_another_network(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert message in caught.value.found


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pth"])
def test_empty_files_and_pointers(tmp_path, name):
    path = tmp_path / name
    path.touch()
    assert refusal(path).found == f"{path} is empty"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "Git LFS pointer" in refusal(path).found


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95, 0.999])
def test_files_cut_off(folder, pth, share):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(len(content) * share)])
    assert "is cut off or not a safetensors file" in refusal(folder).found
    content = pth.read_bytes()
    pth.write_bytes(content[: int(len(content) * share)])
    assert "is cut off or not a PyTorch file" in refusal(pth).found


@pytest.mark.parametrize("share", [0.001, 0.3, 0.95, 0.999])
def test_files_in_pytorchs_old_format_cut_off(tmp_path, pth, share):
    loaded = torch.load(pth, weights_only=True)
    torch.save(loaded, pth, _use_new_zipfile_serialization=False)
    content = pth.read_bytes()
    pth.write_bytes(content[: int(len(content) * share)])
    assert "is cut off or not a PyTorch file" in refusal(pth).found


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "picture.pth"
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)) * 8)
    assert "is cut off or not a PyTorch file" in refusal(path).found


class _Intruder:
    """Unpickled without care, it would make a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["meta", "state_dict", "top"])
def test_a_pickle_that_wants_to_run_code_is_refused_before_it_runs(tmp_path, pth, zipped, place):
    trace = tmp_path / "trace"
    loaded = torch.load(pth, weights_only=True)
    if place == "top":
        loaded["intruder"] = _Intruder(trace)
    else:
        loaded[place]["intruder"] = _Intruder(trace)
    torch.save(loaded, pth, _use_new_zipfile_serialization=zipped)
    error = refusal(pth)
    assert "was refused: reading it would run code" in error.found
    assert "mkdir" in error.found
    assert not trace.exists()
    torch.load(pth, weights_only=False)
    assert trace.exists(), "the file was harmless, and the test proved nothing"


def test_a_whole_model_in_a_pickle_is_refused_too(tmp_path):
    torch.save(tiny_transformers(), tmp_path / "model.pth")
    assert "would run code" in refusal(tmp_path / "model.pth").found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(program, tmp_path / "program.pt")
    assert "was refused: reading it would run code" in refusal(tmp_path / "program.pt").found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no weights (a list)"),
        ({}, "holds no weights"),
        ({"state_dict": {}}, "holds no weights"),
        ({"state_dict": {"a": 1}}, "holds a int under 'a'"),
        ({"epoch": 3}, "holds a int under 'epoch'"),
    ],
)
def test_a_pickle_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    assert message in refusal(tmp_path / "x.pth").found


def test_an_image_classifier(tmp_path):
    from transformers import SegformerConfig, SegformerForImageClassification

    config = SegformerConfig(
        hidden_sizes=list(WIDTHS), depths=[1] * 4, num_attention_heads=list(HEADS), num_labels=7
    )
    SegformerForImageClassification(config).save_pretrained(tmp_path / "mit")
    assert "the weights are an image classifier" in refusal(tmp_path / "mit").found


def test_an_encoder_alone(tmp_path, pth):
    state = torch.load(pth, weights_only=True)["state_dict"]
    alone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    torch.save(alone, pth)
    assert "the weights are an encoder alone" in refusal(pth).found
    torch.save({**alone, "head.weight": torch.zeros(2, 64)}, pth)
    assert "the weights are an image classifier" in refusal(pth).found


def test_another_model(tmp_path):
    state = {"backbone.conv1.weight": torch.zeros(1), "decode_head.conv_seg.weight": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "fcn.pth")
    error = refusal(tmp_path / "fcn.pth")
    assert "not a SegFormer's (their first names: backbone.conv1.weight" in error.found


def test_another_number_of_classes_and_another_variant(folder, pth):
    for source in (folder, pth):
        error = refusal(source, classes=19)
        assert "classifier has 5 classes, 19 were asked for" in error.found
        assert f"--classes {CLASSES}" in error.next_step
        error = refusal(source, variant="b0")
        assert "is a SegFormer custom" in error.found
        assert "b0 was asked for" in error.found
        with pytest.raises(CheckpointError, match="variant 'b9'"):
            load_checkpoint(source, variant="b9")


def test_missing_and_extra_tensors_are_named_the_first_three(folder, pth):
    change_weights(folder, segformer__encoder__layer_norm__0__bias=None)
    found = refusal(folder).found
    assert found == "the checkpoint lacks 1 tensor: segformer.encoder.layer_norm.0.bias"
    state = torch.load(pth, weights_only=True)["state_dict"]
    extra = {f"extra.{letter}": torch.zeros(1) for letter in "dcba"}
    torch.save({"state_dict": {**state, **extra}}, pth)
    found = refusal(pth).found
    assert found == "the checkpoint has 4 unknown tensors: extra.a, extra.b, extra.c, …"


@pytest.mark.parametrize("what", ["block2.0.", "linear_fuse.conv", "linear_pred", "patch_embed3"])
def test_a_part_that_tells_a_size_is_missing(pth, what):
    state = torch.load(pth, weights_only=True)["state_dict"]
    torch.save({k: v for k, v in state.items() if what not in k}, pth)
    found = refusal(pth).found
    assert found.startswith(("the checkpoint lacks", "the checkpoint has no"))


def test_the_unused_classifier_of_the_authors_files_is_dropped_but_no_other(pth):
    state = torch.load(pth, weights_only=True)["state_dict"]
    assert "decode_head.conv_seg.weight" in state
    state["auxiliary_head.conv_seg.weight"] = torch.zeros(1)
    torch.save(state, pth)
    assert "1 unknown tensor: auxiliary_head.conv_seg.weight" in refusal(pth).found


def test_a_tensor_under_both_names(folder):
    change_weights(folder, segformer__stages__0__layer_norm__bias=torch.zeros(8))
    assert "segformer.encoder.layer_norm.0.bias twice" in refusal(folder).found


def test_tensors_of_another_shape(folder, pth):
    change_weights(folder, decode_head__classifier__bias=torch.zeros(4))
    error = refusal(folder)
    assert error.found == "tensor decode_head.classifier.bias has shape (4,)"
    assert "(5,)" in error.expected
    nvlabs_file(pth, **{"backbone.block1.0.attn.kv.bias": torch.zeros(15)})
    assert "key_value.bias has shape (15,)" in refusal(pth).found
    nvlabs_file(pth, **{"backbone.block1.0.attn.kv.bias": torch.zeros(())})
    assert "key_value.bias has shape ()" in refusal(pth).found


def test_a_file_that_may_not_be_read(pth, monkeypatch):
    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(pth).found == f"{pth} cannot be read: Permission denied"


def test_a_stage_norm_that_does_not_fit_or_is_not_whole():
    state = MmsegNetwork().state_dict()
    name = "decode_head.convs.2.bn.bias"
    with pytest.raises(CheckpointError, match=r"batch norm of decode_head\.convs\.2 does not fit"):
        canonical_state({**state, name: torch.zeros(3)}, "mmseg")
    del state[name]
    renamed = canonical_state(state, "mmseg")
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors: decode_head\.linear_c\.2\.proj"):
        fitted_state(renamed, config_from_shapes(renamed, "mmseg"))


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("-inf"), "Inf")])
def test_weights_that_are_no_numbers(folder, value, kind):
    bias = torch.zeros(5)
    bias[2] = value
    change_weights(folder, decode_head__classifier__bias=bias)
    assert refusal(folder).found == f"found {kind} in tensor decode_head.classifier.bias"


def test_fp64_weights_too_large_for_fp32(folder):
    change_weights(
        folder, decode_head__classifier__bias=torch.full((5,), 1e300, dtype=torch.float64)
    )
    assert refusal(folder).found == "found Inf in tensor decode_head.classifier.bias"


def test_quantised_weights(folder):
    change_weights(folder, decode_head__classifier__bias=torch.zeros(5, dtype=torch.int8))
    assert refusal(folder).found == "tensor decode_head.classifier.bias holds int8"


def test_shards_that_do_not_hold_together(folder):
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text("{}")
    assert "names no shards" in refusal(folder).found
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    assert "names the shard ../elsewhere.safetensors" in refusal(folder).found
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert "one.safetensors does not exist" in refusal(folder).found
    save_file(state, folder / "one.safetensors")
    save_file({"decode_head.classifier.bias": torch.zeros(5)}, folder / "two.safetensors")
    assert "which another shard holds too" in refusal(folder).found


def test_weights_of_another_library_beside_a_transformers_configuration(folder, pth):
    (folder / WEIGHTS).unlink()
    torch.save(torch.load(pth, weights_only=True)["state_dict"], folder / "pytorch_model.bin")
    assert "have the names of nvlabs" in refusal(folder).found
