"""Reading checkpoint files: safetensors, PyTorch pickles, JSON. Nothing in a file is executed.

PyTorch files are read with ``weights_only=True``: a pickle may name tensors and plain
containers, and one that asks for anything else is refused before it can run.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segformer_deploy.errors import CheckpointError, MissingDependencyError
from segformer_deploy.files import sha256_of_file

_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_STATE_KEYS = ("state_dict", "model", "model_state_dict")
_POINTER_START = b"version https://git-lfs"
_AGAIN = "download or copy the file again"


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a transformers folder: one, or the shards that an index names.

    Raises:
        CheckpointError: there are none, or the index names one that is not there.
    """
    for name in _SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{folder} has no weights",
        "model.safetensors, pytorch_model.bin, or shards with their .index.json",
        "download the whole model folder, or give the .pth file itself with --checkpoint",
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} names no shards", "a weight_map of tensor to file", _AGAIN)
    files = []
    for name in sorted({str(value) for value in weight_map.values()}):
        # A shard lies beside its index: an index must not reach files elsewhere.
        if Path(name).name != name:
            raise CheckpointError(f"{index} names the shard {name}", "a file beside it", _AGAIN)
        files.append(existing_file(index.parent / name))
    return files


def existing_file(path: Path) -> Path:
    """`path`, if it is a file with something in it; CheckpointError otherwise."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", "a file", "check the path, or " + _AGAIN)
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER_START))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}",
            "a file that you may read",
            "change its permissions, or copy it to a place of your own",
        ) from error
    if not start:
        raise CheckpointError(f"{path} is empty", "weights or their configuration", _AGAIN)
    if start == _POINTER_START:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself",
            "the file that it stands for",
            "run 'git lfs pull' in that folder, or download the file from its web page",
        )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError where the file is missing, empty or something else."""
    try:
        data = json.loads(existing_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error})", "a JSON object", _AGAIN) from error
    if not isinstance(data, dict):
        found = type(data).__name__
        raise CheckpointError(f"{path} holds a {found}", "a JSON object", _AGAIN)
    return data


def read_weights(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the files by name, and the ``meta`` of an mmsegmentation checkpoint.

    Raises:
        CheckpointError: missing, empty, cut off, asks to run code, or holds no tensors.
    """
    state: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}
    for path in paths:
        existing_file(path)
        if path.suffix == ".safetensors":
            tensors: Mapping[str, Tensor] = _safetensors(path)
        else:
            tensors, meta = _tensors_and_meta(_pickle(path), path)
        for name in tensors:
            if name in state:
                raise CheckpointError(
                    f"{path} holds {name}, which another shard holds too", "each once", _AGAIN
                )
        state.update(tensors)
    return state, meta


def sha256_of_weights(paths: Sequence[Path]) -> str:
    """The file's SHA-256; of several, that of the lines ``<sha256>  <name>`` (as sha256sum)."""
    if len(paths) == 1:
        return sha256_of_file(paths[0])
    lines = "".join(f"{sha256_of_file(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("safetensors", "export", "reading weights") from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is cut off or not a safetensors file ({error})",
            "a complete .safetensors file",
            _AGAIN,
        ) from error
    return tensors


def _pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, we refuse in our own words
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the kinds differ between versions and damages
        raise _pickle_error(path, error) from error


def _pickle_error(path: Path, error: Exception) -> CheckpointError:
    """Tell a file that wants to run code from one that is damaged."""
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted or re.search(r"unrecognized function|unsupported class|TorchScript", text):
        what = wanted[1] if wanted else "a program inside it"
        return CheckpointError(
            f"{path} was refused: reading it would run code ({what})",
            "a file of tensors and plain values only",
            "if you trust its source, save the plain part of it where it was trained: "
            "torch.save({key: checkpoint.get(key) for key in ('state_dict', 'meta')}, 'w.pth')",
        )
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return CheckpointError(
        f"{path} is cut off or not a PyTorch file ({reason[:120]})",
        "a complete .bin, .pt or .pth file written by torch.save",
        _AGAIN,
    )


def _tensors_and_meta(loaded: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state: Any = loaded
    meta: Any = None
    if isinstance(loaded, Mapping):
        nested = [loaded[key] for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping)]
        state = nested[0] if nested else loaded
        meta = loaded.get("meta") if nested else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path} holds no weights (a {type(loaded).__name__})",
            "a state dict: tensors by name, or one under 'state_dict'",
            "save model.state_dict() with torch.save",
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} under '{name}' among its weights",
                "tensors only",
                "save model.state_dict() with torch.save",
            )
    tensors = {str(name): value for name, value in state.items()}
    return tensors, dict(meta) if isinstance(meta, Mapping) else {}
