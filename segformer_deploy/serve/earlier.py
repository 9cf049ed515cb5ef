"""What lies at a model's place already: whether it is ours, and whether a version fits to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segformer_deploy.errors import InputError, OutputError, SpecError
from segformer_deploy.serve.model_config import HEADING
from segformer_deploy.serve.names import NETWORK_ENDING
from segformer_deploy.spec import ModelSpec

CONFIG, RECORD = "config.pbtxt", "segdeploy.json"
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

    OutputError where somebody else's folder is in the way, InputError where the version is not a
    new one, or answers in other classes than the earlier ones: they share one configuration.
    """
    if version < 1:
        raise InputError(f"version {version}", "1 or more")
    _check_ours(folder)
    _check_ours(folder.with_name(folder.name + NETWORK_ENDING), only_if=network is not None)
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


def _check_ours(folder: Path, only_if: bool = True) -> None:
    if not only_if or not folder.exists():
        return
    try:
        ours = (folder / CONFIG).read_text(errors="replace").startswith(HEADING)
    except OSError:
        ours = False
    if not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} was not written by segdeploy package",
            "a free place, or a model of ours to add a version to",
            "choose another --name or another folder with --triton",
        )
