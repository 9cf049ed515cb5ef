"""What differs between TensorRT 10, TensorRT 11 and TensorRT-RTX, in one table.

Everything else in this room is written once. The table was read from the libraries' own
bindings; a test holds every call that we make against them.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from segformer_deploy.errors import BackendError, MissingDependencyError

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries.

    Attributes:
        backend: our name, as ``--backend`` takes it.
        module: the Python module.
        title: the library's name, for people.
        oldest, below: releases that this package is written for: oldest <= version < below.
        builds_without_gpu: the builder needs no device (RTX compiles for the device at load).
        capabilities: compute capabilities that a plan can be built for by name; empty where a
            plan is always for the GPU that builds it.
        default_capabilities: the oldest one that a plan runs on where none is named.
        timing_cache: the builder times tactics and may keep what it learnt. Attached to RTX,
            which times nothing, it asks for a GPU.
        flags: names of `BuilderFlag` that every plan is built with. RTX's is what a CUDA graph
            asks: no memory is taken while it runs, and the stated memory is all there is.
        compiles_at_load: kernels are compiled for the device at load, and for shapes as they
            come; an `IRuntimeConfig` says when, and keeps them for the next load.
        states_capture: a context says whether its runs may be captured as a CUDA graph; where
            none does, they may.
        states_validity: the runtime says before loading whether a plan fits this machine.
        refit_without_gpu: a refittable plan can be built with no device.
        hardware_levels: "ampere-plus" plans make sense (RTX's are portable as they are).
        int8_is_fast: INT8 arithmetic, not only INT8 weights.
    """

    backend: str
    module: str
    title: str
    oldest: tuple[int, int]
    below: tuple[int, int]
    builds_without_gpu: bool
    capabilities: tuple[str, ...]
    default_capability: str
    timing_cache: bool
    flags: tuple[str, ...]
    compiles_at_load: bool
    states_capture: bool
    states_validity: bool
    refit_without_gpu: bool
    hardware_levels: bool
    int8_is_fast: bool


FLAVOURS = {
    TENSORRT: Flavour(
        backend=TENSORRT,
        module="tensorrt",
        title="TensorRT",
        oldest=(10, 3),
        below=(12, 0),
        builds_without_gpu=False,
        capabilities=(),
        default_capability="",
        timing_cache=True,
        flags=(),
        compiles_at_load=False,
        states_capture=False,
        states_validity=False,
        refit_without_gpu=False,
        hardware_levels=True,
        int8_is_fast=True,
    ),
    TENSORRT_RTX: Flavour(
        backend=TENSORRT_RTX,
        module="tensorrt_rtx",
        title="TensorRT-RTX",
        oldest=(1, 2),
        below=(2, 0),
        builds_without_gpu=True,
        capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
        default_capability="8.0",
        timing_cache=False,
        flags=("REQUIRE_USER_ALLOCATION",),
        compiles_at_load=True,
        states_capture=True,
        states_validity=True,
        refit_without_gpu=False,
        hardware_levels=False,
        int8_is_fast=False,
    ),
}


@dataclass(frozen=True)
class Library:
    """A flavour with the module that was found for it."""

    flavour: Flavour
    api: Any
    version: str

    @property
    def name(self) -> str:
        return f"{self.flavour.title} {self.version}"


def load_library(backend: str) -> Library:
    """Import the library of `backend`.

    Raises MissingDependencyError where it is not installed, BackendError where it is broken or
    of a release that this package does not know.
    """
    flavour = FLAVOURS[backend]
    try:
        api = importlib.import_module(flavour.module)
    except (ImportError, OSError) as error:
        if getattr(error, "name", None) != flavour.module:
            # Installed, but something below it (its C++ libraries) does not load.
            raise BackendError(
                f"the Python module '{flavour.module}' does not load: {error}",
                f"{flavour.title} with its libraries",
                f'pip install --force-reinstall "segformer-deploy[{backend}]"',
            ) from error
        raise MissingDependencyError(
            flavour.module, backend, f"building and running {flavour.title} plans"
        ) from error
    return library_from_module(flavour, api)


def library_from_module(flavour: Flavour, api: Any) -> Library:
    """Check that `api` is a release which this code was written for."""
    version = str(getattr(api, "__version__", ""))
    wanted = f"{flavour.title} {_dotted(flavour.oldest)} or newer, below {_dotted(flavour.below)}"
    if not version:
        # A namespace left behind by type stubs imports as an empty module.
        raise BackendError(
            f"the Python module '{flavour.module}' is empty: it has no version",
            wanted,
            f'pip install "segformer-deploy[{flavour.backend}]"; on a Jetson use JetPack\'s own: '
            "python3 -m venv --system-site-packages",
        )
    if not flavour.oldest <= release(version)[:2] < flavour.below:
        raise BackendError(
            f"{flavour.title} {version} is installed",
            wanted,
            f'pip install "segformer-deploy[{flavour.backend}]"',
        )
    return Library(flavour, api, version)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: ``10.13.0.35`` -> (10, 13, 0, 35)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:4])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
