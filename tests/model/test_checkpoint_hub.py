"""Hub ids: told from paths, fetched without what is not needed, refused with a way out."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.checkpoint import load_checkpoint
from segformer_deploy.model.checkpoint_hub import is_hub_id
from tests.model.checkpoint_builders import tiny_transformers

HUB_ID = "nvidia/segformer-b0-finetuned-ade-512-512"


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        (HUB_ID, True),
        ("me/my.model_1", True),
        ("model", False),
        ("a/b/c", False),
        ("./a/b", False),
        ("../b", False),
        ("~/b", False),
        ("/a/b", False),
        ("a/b.pth", False),
        ("a/b.safetensors", False),
        ("there/b", False),
        ("a/", False),
    ],
)
def test_ids_and_paths(source, is_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert is_hub_id(source) == is_id


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model; gives the function that changes what it holds."""
    remote, local = tmp_path / "remote", tmp_path / "local"
    tiny_transformers().save_pretrained(remote)
    (remote / "README.md").write_text("---\nlicense: other\n---\n")
    (remote / "tf_model.h5").write_bytes(b"large and not for us")

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == HUB_ID
        local.mkdir(exist_ok=True)
        for file in remote.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return remote, local


def test_a_model_of_the_hub(hub):
    checkpoint = load_checkpoint(HUB_ID)
    assert checkpoint.spec.weights.origin == HUB_ID
    assert checkpoint.spec.weights.licence == "non-commercial (NVIDIA Source Code License)"
    names = {file.name for file in hub[1].iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}


def test_a_model_that_has_only_pickled_weights(hub):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(hub[0] / "model.safetensors"), hub[0] / "pytorch_model.bin")
    (hub[0] / "model.safetensors").unlink()
    assert load_checkpoint(HUB_ID).config.classes == 5
    assert (hub[1] / "pytorch_model.bin").exists()


class TransportError(Exception):
    """Stands for the HTTP library's own errors: which library it is differs between clients."""


NO_PAGE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message", "advice"),
    [
        (LocalEntryNotFoundError("no network"), "cannot be reached", "--checkpoint FOLDER"),
        (TransportError("no route"), "cannot be reached", "--checkpoint FOLDER"),
        (TimeoutError(), "cannot be reached", "--checkpoint FOLDER"),
        (RepositoryNotFoundError("404", response=NO_PAGE), "has no model", "spelling"),
        (GatedRepoError("403", response=NO_PAGE), "without an agreement", "accept"),
    ],
)
def test_a_hub_that_says_no(monkeypatch, error, message, advice):
    def snapshot_download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(HUB_ID)
    assert message in caught.value.found
    assert advice in caught.value.next_step


def test_a_hub_id_that_is_also_a_folder_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_transformers().save_pretrained(tmp_path / "nvidia" / "model")
    assert load_checkpoint("nvidia/model").spec.weights.origin == "model"
    assert load_checkpoint(Path("nvidia/model")).spec.weights.origin == "model"
