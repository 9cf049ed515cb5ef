"""What our calls are proved against: real libraries, and published types.

`make test` installs all of it, and says so with SEGDEPLOY_REQUIRE_PROOF=1: then what is missing
fails instead of being skipped.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from segformer_deploy.engine.trt.flavour import Library, load_library

REQUIRED = os.environ.get("SEGDEPLOY_REQUIRE_PROOF") == "1"
FOLDER = Path(os.environ.get("SEGDEPLOY_PROOF") or Path(sys.prefix) / "proof")
"""Holds tensorrt-stubs and tensorrt-lean: beside the environment, for the stubs would hide a
TensorRT that is missing."""


def missing(what: str, command: str) -> NoReturn:
    reason = f"{what} is not installed: {command}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def rtx() -> Library:
    """TensorRT-RTX itself."""
    needed("tensorrt_rtx", "tensorrt-rtx")
    return load_library("tensorrt-rtx")


def needed(module: str, extra: str) -> Any:
    """The module of one of our extras."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(module, f'pip install -c requirements/lock.txt -e ".[{extra}]"')


def folder_with(name: str) -> Path:
    """The proof folder, in which `name` is installed."""
    if not (FOLDER / name).exists():
        missing(
            f"{name} in {FOLDER}",
            f"pip install --no-deps --target {FOLDER} -r requirements/proof.txt",
        )
    return FOLDER
