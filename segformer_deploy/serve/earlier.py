"""What lies at a model's place already: whether it is ours, and whether a version fits to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segformer_deploy.errors import InputError, OutputError, SpecError
from segformer_deploy.serve.model_config import HEADING, front_of
from segformer_deploy.spec import ModelSpec

CONFIG, RECORD, README = "config.pbtxt", "segdeploy.json", "README.md"
KEPT = (CONFIG, README)
"""Files of a model that speak of one version, and lie in that version's folder too."""
_FORMAT = 1


def record_text(spec: ModelSpec, engine: dict[str, Any], network: str | None) -> str:
    """`segdeploy.json` of a version: what that version answers, whatever a later one says."""
    record = {"format": _FORMAT, "spec": spec.to_dict(), "engine": engine, "network": network}
    return json.dumps(record, indent=2) + "\n"


def read_record(version: Path) -> dict[str, Any]:
    """`spec` (a ModelSpec), `engine` and `network` of a version's folder; SpecError otherwise."""
    path = version / RECORD
    try:
        record = json.loads(path.read_text())
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']!r}")
        return {
            "spec": ModelSpec.from_dict(record["spec"]),
            "engine": dict(record["engine"]),
            "network": record["network"],
        }
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        raise SpecError(
            f"{path} does not read ({error})",
            "what segdeploy package wrote",
            "package the engine again: segdeploy package ENGINE --triton DIR",
        ) from error


def check_place(folder: Path, version: int, spec: ModelSpec, network: str | None) -> None:
    """Raise where a new version may not be written into the model at `folder`.

    OutputError where another folder is in the way, InputError where the version is not a new one,
    or answers in other classes than the earlier ones: they share one configuration.

    Args:
        network: the name of the network that is written beside it; None: none is.
    """
    if version < 1:
        raise InputError(f"version {version}", "1 or more")
    _check_front(folder)
    if network is not None:
        _check_network(folder.with_name(network), folder.name, version)
    there = version_folders(folder)
    if not there:
        return
    newest = there[-1]
    if version <= int(newest.name):
        raise InputError(
            f"{folder} has version {newest.name}",
            "a higher number for the new one: the server takes the highest",
            f"--version {int(newest.name) + 1}, or another --name",
        )
    before = read_record(newest)
    if before["spec"].class_names != spec.class_names:
        raise InputError(
            f"version {newest.name} of {folder} has other classes "
            f"({before['spec'].classes}, this engine has {spec.classes})",
            "the same classes in all versions of a model: clients know them by its configuration",
            "choose another --name",
        )
    if (before["network"] is None) != (network is None):
        had = "runs its own engine" if before["network"] is None else "asks a network"
        raise InputError(
            f"version {newest.name} of {folder} {had}",
            "the same for all versions of a model",
            f"{'leave out' if before['network'] is None else 'give'} --network, or choose another "
            "--name",
        )


def version_folders(folder: Path) -> list[Path]:
    """The versions of a model, lowest first."""
    found = [one for one in folder.glob("*") if one.is_dir() and one.name.isdecimal()]
    return sorted(found, key=lambda one: int(one.name))


def _check_front(folder: Path) -> None:
    _check_ours(folder)
    front = front_of(config_text(folder))
    if front is not None:
        raise OutputError(
            f"{folder} is the network of the model '{front}'",
            "a free place, or a model that segments to add a version to",
            "choose another --name or another folder with --triton",
        )


def _check_network(folder: Path, front: str, version: int) -> None:
    """Nothing is there, or the network of this front, without the version or a killed call's."""
    _check_ours(folder)
    there = version_folders(folder)
    is_model = any((one / RECORD).exists() for one in there)
    is_theirs = is_model or front_of(config_text(folder)) != front
    if is_theirs and folder.exists() and any(folder.iterdir()):
        raise OutputError(
            f"{folder} is there, and is not the network of the model '{front}'",
            "a free place for the network, or that network to add a version to",
            "choose another --name or another folder with --triton",
        )
    if there and version < int(there[-1].name):
        raise InputError(
            f"{folder} has version {there[-1].name}",
            "a higher number for the new one: network and model have the same",
            f"--version {int(there[-1].name) + 1}, or another --name",
        )


def config_text(folder: Path) -> str:
    """The model's configuration; empty where there is none that can be read."""
    try:
        return (folder / CONFIG).read_text(errors="replace")
    except OSError:
        return ""


def _check_ours(folder: Path) -> None:
    if not folder.exists() or config_text(folder).startswith(HEADING):
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise OutputError(
            f"{folder} was not written by segdeploy package",
            "a free place, or a model of ours to add a version to",
            "choose another --name or another folder with --triton",
        )
