"""Which version of a packaged model a server takes: going back to an earlier one, and forth again.

A version is more than its folder: instances, batches and the place it runs at are in the model's
configuration. So each version's configuration lies in its folder too, and is brought back whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.errors import InputError, OutputError
from segformer_deploy.files import atomic_file
from segformer_deploy.serve.earlier import (
    CONFIG,
    KEPT,
    config_text,
    read_record,
    version_folders,
)
from segformer_deploy.serve.model_config import HEADING, config_for_version, front_of
from segformer_deploy.serve.names import NETWORK_ENDING


@dataclass(frozen=True)
class Used:
    """The version that a server takes from now on."""

    name: str
    version: int
    folder: Path
    network: str | None

    def to_dict(self) -> dict[str, str | int | None]:
        return {
            "model": self.name,
            "version": self.version,
            "folder": str(self.folder),
            "network": self.network,
        }


def use_version(root: Path, name: str, version: int) -> Used:
    """Have a server take `version` of the model `name`, and of its network where it has one.

    Nothing is removed: the other versions stay to go to.

    Raises:
        InputError: where there is no such model or version, or its network is not there.
        SpecError: where the version does not say what it is, or how it is served.
        OutputError: where the place is not ours, or cannot be written.
    """
    folder = root / name
    if not config_text(folder).startswith(HEADING) or front_of(config_text(folder)) is not None:
        raise OutputError(
            f"{folder} is no model that segdeploy package wrote",
            "the name of one in that model repository",
            "name it with --name",
        )
    _check_version(folder, version)
    network = read_record(folder / str(version))["network"]
    if network is not None:
        beside = folder.with_name(name + NETWORK_ENDING)
        if network != beside.name or front_of(config_text(beside)) != name:
            raise InputError(
                f"{beside} is not the network of the model '{name}'",
                "the network that this version asks",
                "package the engine again: segdeploy package ENGINE --triton DIR --network",
            )
        _check_version(beside, version)
        # The network first: until it is there, its front would have nobody to ask.
        _bring_back(beside, version)
    _bring_back(folder, version)
    return Used(name, version, folder, network)


def _check_version(folder: Path, version: int) -> None:
    there = [int(one.name) for one in version_folders(folder)]
    if version not in there:
        raise InputError(
            f"{folder} has no version {version}",
            f"one of {', '.join(map(str, there)) or 'none'}",
            f"--use {there[-1]}" if there else "segdeploy package ENGINE --triton DIR",
        )
    if not config_text(folder / str(version)).startswith(HEADING):
        raise InputError(
            f"version {version} of {folder} was written without a configuration of its own",
            f"{folder / str(version) / CONFIG}",
            "package its engine again, as a new version: segdeploy package ENGINE --triton DIR "
            f"--version {there[-1] + 1}",
        )


def _bring_back(folder: Path, version: int) -> None:
    for name in KEPT:
        kept = folder / str(version) / name
        if kept.exists():
            text = kept.read_text(encoding="utf-8")
            if name == CONFIG and front_of(text) is None:  # a network's says its version already
                text = config_for_version(text, version)
            with atomic_file(folder / name) as aside:
                aside.write_text(text, encoding="utf-8")
