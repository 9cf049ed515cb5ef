"""Which binding works with the GPU: cuda-python where it is installed, else pycuda."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segformer_deploy.cuda.cuda_python import CudaPythonDriver
from segformer_deploy.cuda.device import NO_DRIVER, GpuReport, find_gpus
from segformer_deploy.cuda.driver import Driver
from segformer_deploy.cuda.pycuda_binding import PycudaDriver
from segformer_deploy.errors import BackendError, MissingDependencyError

# cuda-python first: it has wheels, and offers graphs.
BINDINGS: dict[str, Callable[[], Driver]] = {
    "cuda-python": CudaPythonDriver,
    "pycuda": PycudaDriver,
}
OLDEST_CUDA = 12, 0
"""Which a driver must serve: both bindings call what came with CUDA 12."""
_UNUSABLE = "the GPU cannot be used: "
_INSTALL = (
    "install the NVIDIA driver; a Jetson's comes with JetPack; a container is given the host's: "
    "docker run --gpus all, on a Jetson --runtime nvidia"
)


@dataclass(frozen=True)
class Opened:
    """A driver, and how it was chosen.

    Attributes:
        binding: a key of `BINDINGS`.
        why: one sentence for people.
    """

    driver: Driver
    binding: str
    why: str


def open_driver(prefer: str | None = None) -> Opened:
    """GPU number 0, by the binding `prefer` where it works, else by the other one.

    Raises MissingDependencyError where there is a GPU and neither binding is installed,
    BackendError where no GPU can be used; each says what the driver itself says of it.
    """
    if prefer is not None and prefer not in BINDINGS:
        raise BackendError(
            f"there is no CUDA binding named '{prefer}'", "one of " + ", ".join(BINDINGS)
        )
    names = sorted(BINDINGS, key=lambda name: name != prefer)
    refused: dict[str, BackendError | MissingDependencyError] = {}
    for name in names:
        try:
            driver: Any = BINDINGS[name]()
        except (BackendError, MissingDependencyError) as error:
            refused[name] = error
        else:
            driver.chosen = _why(name, prefer, list(refused.values()))
            return Opened(driver, name, driver.chosen)
    raise _neither(refused, find_gpus())


def _why(
    name: str, prefer: str | None, refused: list[BackendError | MissingDependencyError]
) -> str:
    if refused:
        return f"{name}, because {refused[0].found}"
    return f"{name}, as asked for" if prefer else f"{name}, which is tried first"


def _neither(
    refused: dict[str, BackendError | MissingDependencyError], report: GpuReport
) -> BackendError | MissingDependencyError:
    """The error of bindings that all refused, once the driver was asked without them.

    The driver comes first: where there is none, or an old one, no binding would help.
    """
    if report.why_none is not None and report.why_none.startswith(NO_DRIVER):
        return _unusable(report.why_none, _INSTALL)
    if report.cuda_version is not None and report.cuda_version < OLDEST_CUDA:
        return BackendError(
            "the GPU cannot be used: its driver serves CUDA {}.{}".format(*report.cuda_version),
            "a driver of CUDA {}.{} or later".format(*OLDEST_CUDA),
            "update the NVIDIA driver to 525 or later; on a Jetson, to JetPack 6 or later",
        )
    installed = {name: e for name, e in refused.items() if isinstance(e, BackendError)}
    if installed:
        # Each binding begins with "the GPU cannot be used"; said once, it is enough.
        said = [f"{name}: {e.found.removeprefix(_UNUSABLE)}" for name, e in installed.items()]
        return _unusable("; ".join(said), next(iter(installed.values())).next_step)
    if report.why_none is not None:
        return _unusable(report.why_none, "segdeploy doctor says which driver and GPU are here")
    return MissingDependencyError("cuda.bindings' or 'pycuda", "cuda", "work on a GPU")


def _unusable(why: str, next_step: str) -> BackendError:
    return BackendError(f"{_UNUSABLE}{why}", "an NVIDIA GPU with its driver", next_step)
