"""Model ids of the Hugging Face Hub, and what a model card says about the licence."""

from __future__ import annotations

import re
from pathlib import Path

from segformer_deploy.errors import CheckpointError, MissingDependencyError

NVIDIA_LICENCE = "non-commercial (NVIDIA Source Code License)"
_SETTINGS = ["config.json", "preprocessor_config.json", "README.md"]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
_FILE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".json"}


def is_hub_id(source: str) -> bool:
    """Whether `source` reads as ``owner/model`` rather than as a path.

    ``./a/b``, ``~/a``, ``a/b/c``, ``a/b.pth``, and ``a/b`` where a folder ``a`` exists are paths.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source):
        return False
    owner = source.partition("/")[0]
    return Path(source).suffix.lower() not in _FILE_SUFFIXES and not Path(owner).exists()


def folder_from_hub(hub_id: str) -> Path:
    """Download the files that we read (cached by huggingface_hub) and give their folder.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such model for us.
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "export", "downloading models") from error
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_SETTINGS + _SAFETENSORS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=_SETTINGS + _PICKLES))
    except Exception as error:  # transport errors differ between the client's versions
        raise _hub_error(hub_id, error) from error
    return folder


def _hub_error(hub_id: str, error: Exception) -> CheckpointError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"the hub does not hand out {hub_id} without an agreement",
            "a model that you have access to",
            f"accept its terms at https://huggingface.co/{hub_id}, then 'hf auth login'",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"the hub has no model {hub_id}, or it is private",
            "an id such as nvidia/segformer-b0-finetuned-ade-512-512, or a path that exists",
            "check the spelling; for a private model 'hf auth login'",
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return CheckpointError(
        f"the hub cannot be reached for {hub_id} ({type(error).__name__}: {reason[:120]})",
        "a network connection to huggingface.co, or the model in its local cache",
        "download the model's folder by hand and give it: --checkpoint FOLDER",
    )


def licence_from_card(folder: Path) -> str:
    """The licence in the front matter of ``README.md``; ``unknown`` where none is stated.

    ``license: other`` gives ``license_name`` where the card has one.
    """
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    text = card.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if not found:
        return "unknown"
    licence = _field(found[1], "license")
    if licence in ("", "other"):
        return _field(found[1], "license_name") or licence or "unknown"
    return licence


def _field(front_matter: str, key: str) -> str:
    found = re.search(rf"^{key}:[ \t]*([^#\n]*)", front_matter, re.MULTILINE)
    return found[1].strip().strip("'\"") if found else ""
