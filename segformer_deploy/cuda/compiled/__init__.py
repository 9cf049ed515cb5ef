"""The kernels as they are shipped: one cubin per architecture, and PTX for all others.

``index.json`` says what each file was made of and by which compiler; ``make kernels`` makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from segformer_deploy.cuda.compile import Kind
from segformer_deploy.cuda.nvrtc_library import Version
from segformer_deploy.errors import BackendError

FOLDER = Path(__file__).parent
INDEX = "index.json"
_AGAIN = "pip install --force-reinstall segformer-deploy"


@dataclass(frozen=True)
class Shipped:
    """One file beside this one.

    Attributes:
        architecture: "sm_87" of a cubin, "compute_75" of PTX.
        capability: the same as a compute capability: (8, 7).
        compiler: NVRTC's full version, such as "12.6.85".
        kernels: what each kernel takes (`KernelUse`); empty for PTX.
    """

    file: str
    kind: Kind
    architecture: str
    capability: Version
    compiler: str
    sha256: str
    kernels: Mapping[str, Mapping[str, int]]

    @property
    def compiler_version(self) -> Version:
        major, minor, *_ = self.compiler.split(".")
        return int(major), int(minor)

    def read(self) -> bytes:
        """The file's bytes; BackendError where they are not those that were made."""
        path = FOLDER / self.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BackendError(f"cannot read {path}: {error}", "the shipped file", _AGAIN) from None
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise BackendError(
                f"{path} is damaged: its SHA-256 is {found}", f"SHA-256 {self.sha256}", _AGAIN
            )
        return data


@lru_cache(maxsize=1)
def shipped() -> tuple[Shipped, ...]:
    """All of them, cubins in the order of their capability, PTX last."""
    return tuple(_shipped(one) for one in read_index()["images"])


def read_index() -> dict[str, Any]:
    """index.json; BackendError where it does not read."""
    path = FOLDER / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"cannot read {path}: {error}", "the shipped file", _AGAIN) from None
    return index


def capability_of(architecture: str) -> Version:
    """ "sm_87" -> (8, 7); the last digit is the minor revision."""
    digits = architecture.partition("_")[2]
    return int(digits[:-1]), int(digits[-1])


def _shipped(entry: Mapping[str, Any]) -> Shipped:
    return Shipped(
        file=entry["file"],
        kind=entry["kind"],
        architecture=entry["architecture"],
        capability=capability_of(entry["architecture"]),
        compiler=entry["compiler"],
        sha256=entry["sha256"],
        kernels=entry["kernels"],
    )
