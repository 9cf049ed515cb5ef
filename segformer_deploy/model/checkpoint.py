"""Checkpoint -> (SegformerConfig, ModelSpec, state dict), nothing missing, nothing left over.

Read are a transformers folder (or its weight file), a model id of the Hugging Face Hub, and
``.pth`` files of NVlabs/SegFormer and mmsegmentation 0.x and 1.x. The way of a checkpoint:
files -> names (`checkpoint_names`) -> network (`checkpoint_config`) -> what it says about classes
and frames (`checkpoint_description`). No code in a file is ever run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.checkpoint_config import (
    check_request,
    config_from_json,
    config_from_shapes,
    fitted_state,
    variant_of,
)
from segformer_deploy.model.checkpoint_description import (
    Description,
    description_from_meta,
    description_from_transformers,
)
from segformer_deploy.model.checkpoint_files import (
    existing_file,
    read_json,
    read_weights,
    sha256_of_weights,
    weight_files,
)
from segformer_deploy.model.checkpoint_hub import (
    NVIDIA_LICENCE,
    folder_from_hub,
    is_hub_id,
    licence_from_card,
)
from segformer_deploy.model.checkpoint_names import canonical_state, style_of, without_prefix
from segformer_deploy.model.segformer import Segformer, SegformerConfig
from segformer_deploy.shipped import DEMO_MODEL, WEIGHTS_FILE, shipped_file
from segformer_deploy.spec import ModelSpec, Weights
from segformer_deploy.streets.classes import PALETTE

DEMO = "demo"
_NEXT = "download the model's folder, or give a .pth file, a folder or a hub id with --checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Weights that fit a network exactly, and what is known about them.

    Attributes:
        config: the network.
        spec: classes, normalisation, resize, labels, origin, licence and hash.
        state: FP32 tensors (the batch counter int64) under this package's parameter names.
        notes: what the checkpoint did not say and was assumed; to be shown to the reader.
    """

    config: SegformerConfig
    spec: ModelSpec
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def load_checkpoint(
    source: str | Path, *, variant: str | None = None, classes: int | None = None
) -> Checkpoint:
    """Read a checkpoint from a folder, a file or the hub.

    Args:
        source: a transformers folder, a weight file, or a hub id (``owner/model``; str only).
        variant: ``b0`` to ``b5`` where only that one will do.
        classes: the number of classes where only that one will do.

    Raises:
        CheckpointError: anything about the checkpoint that cannot be used.
        MissingDependencyError: safetensors or huggingface_hub is needed and not installed.
    """
    if source == DEMO:
        return _demo(variant, classes)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, weight_files(path), _origin(path), variant, classes)
    if path.is_file():
        return _from_file(path, variant, classes)
    if isinstance(source, str) and is_hub_id(source):
        folder = folder_from_hub(source)
        return _from_folder(folder, weight_files(folder), source, variant, classes)
    raise CheckpointError(f"{source} does not exist", "a checkpoint's folder or file", _NEXT)


def _demo(variant: str | None, classes: int | None) -> Checkpoint:
    """The weights that come with the package, trained on generated streets."""
    weights = shipped_file(WEIGHTS_FILE)
    if weights is None:
        raise CheckpointError(
            "this installation has no demo weights",
            "a checkpoint of your own or from the hub",
            "--checkpoint nvidia/segformer-b0-finetuned-ade-512-512, or --random-weights",
        )
    loaded = _from_folder(weights.parent, [weights], DEMO_MODEL, variant, classes)
    shipped = replace(loaded.spec.weights, licence="Apache-2.0")
    return replace(loaded, spec=loaded.spec.with_(palette=PALETTE, weights=shipped))


def model_from_checkpoint(checkpoint: Checkpoint) -> Segformer:
    """The network with the checkpoint's weights, in eval mode; every tensor is loaded."""
    model = Segformer(checkpoint.config)
    model.load_state_dict(checkpoint.state, strict=True)
    return model.eval()


def _origin(path: Path) -> str:
    # Without the folders above it: they would tell of this machine. `random` is a reserved word.
    name = path.resolve().name
    return f"./{name}" if name == Weights().origin else name


def _from_folder(
    folder: Path, files: list[Path], origin: str, variant: str | None, classes: int | None
) -> Checkpoint:
    """A transformers folder: its two JSON files, its weights, its model card."""
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "segformer":
        raise CheckpointError(
            f"config.json in {folder} describes a model of type {settings.get('model_type')!r}",
            "model_type 'segformer'",
            "give a SegFormer checkpoint",
        )
    tensors, _ = read_weights(files)
    tensors = without_prefix(tensors)
    style = style_of(tensors)
    if style != "transformers":
        raise CheckpointError(
            f"the weights in {folder} have the names of {style}, beside transformers' config.json",
            "weights that transformers saved",
            f"give the weight file itself: --checkpoint {files[0]}",
        )
    state = canonical_state(tensors, style)
    config = config_from_json(settings, state)
    check_request(config, variant, classes)
    state = fitted_state(state, config)
    processor = folder / "preprocessor_config.json"
    described = description_from_transformers(
        settings, read_json(processor) if processor.exists() else None, config.classes
    )
    licence = licence_from_card(folder)
    made_by = (origin, str(settings.get("_name_or_path", "")))
    if licence in ("other", "unknown") and any(name.startswith("nvidia/") for name in made_by):
        licence = NVIDIA_LICENCE
    weights = Weights(origin, licence, sha256_of_weights(files))
    return Checkpoint(config, _spec(config, described, weights), state, described.notes)


def _from_file(path: Path, variant: str | None, classes: int | None) -> Checkpoint:
    """A weight file: its names tell whose it is."""
    existing_file(path)
    tensors, meta = read_weights([path])
    tensors = without_prefix(tensors)
    style = style_of(tensors)
    if style == "transformers":
        if not (path.parent / "config.json").is_file():
            raise CheckpointError(
                f"{path} has transformers' names, and no config.json lies beside it",
                "a transformers folder: config.json, preprocessor_config.json and the weights",
                "download the whole folder and give it: --checkpoint FOLDER",
            )
        return _from_folder(path.parent, [path], _origin(path), variant, classes)
    state = canonical_state(tensors, style)
    config = config_from_shapes(state, style)
    if style == "mmseg":
        # mmsegmentation's own decode head applies ReLU to each stage before it is upsampled.
        config = replace(config, stage_activation=True)
    check_request(config, variant, classes)
    state = fitted_state(state, config)
    described = description_from_meta(meta, config.classes)
    licence = NVIDIA_LICENCE if style == "nvlabs" else "unknown"
    weights = Weights(_origin(path), licence, sha256_of_weights([path]))
    return Checkpoint(config, _spec(config, described, weights), state, described.notes)


def _spec(config: SegformerConfig, described: Description, weights: Weights) -> ModelSpec:
    return ModelSpec(
        variant=variant_of(config),
        class_names=described.class_names,
        palette=described.palette,
        mean=described.mean,
        std=described.std,
        resize=described.resize,
        label_map=described.label_map,
        ignore_index=described.ignore_index,
        weights=weights,
    )
