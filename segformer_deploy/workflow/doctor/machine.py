"""What this machine is: every fact that a rule or a reader may want.

Nothing is loaded onto a GPU and no engine is started: this answers in a second or two, on a
machine that works as on one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.errors import BackendError, SegdeployError

if TYPE_CHECKING:
    from segformer_deploy.cuda.device import GpuReport
    from segformer_deploy.host.clocks import Clocks
    from segformer_deploy.host.cpu import Cpu
    from segformer_deploy.host.libraries import Libraries
    from segformer_deploy.host.memory import Memory
    from segformer_deploy.host.system import System
    from segformer_deploy.host.video import Video


@dataclass(frozen=True)
class Kernels:
    """Our own compiled code.

    Attributes:
        network: the native backend's variant; None where it cannot run.
        class_map: what computes class maps and resizes, in one line.
        class_map_compiled: whether that is compiled code.
        why: why there is no native backend.
    """

    network: str | None
    class_map: str
    class_map_compiled: bool
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class EngineFolder:
    """An engine folder, and whether it runs on this machine.

    Attributes:
        backend, precision: None where the manifest does not read.
        why, next: what is wrong with it here and what to do; None where it runs.
    """

    path: Path
    backend: str | None
    precision: str | None
    runs: bool
    why: str | None = None
    next: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class Machine:
    """All that was asked of this machine."""

    system: System
    cpu: Cpu
    clocks: Clocks
    memory: Memory
    gpu: GpuReport
    libraries: Libraries
    video: Video
    kernels: Kernels
    engines: tuple[EngineFolder, ...]

    def to_dict(self) -> dict[str, Any]:
        parts = {name: part for name, part in vars(self).items() if name != "engines"}
        facts = {name: part.to_dict() for name, part in parts.items()}
        return {**facts, "engines": [engine.to_dict() for engine in self.engines]}


def look(build: Path) -> Machine:
    """Every fact that the findings are drawn from."""
    from segformer_deploy.cuda.device import find_gpus
    from segformer_deploy.host.clocks import clock_facts
    from segformer_deploy.host.cpu import cpu_facts
    from segformer_deploy.host.libraries import library_facts
    from segformer_deploy.host.memory import memory_facts
    from segformer_deploy.host.system import system_facts
    from segformer_deploy.host.video import video_facts

    libraries = library_facts()
    return Machine(
        system=system_facts(),
        cpu=cpu_facts(),
        clocks=clock_facts(),
        memory=memory_facts(),
        gpu=find_gpus(),
        libraries=libraries,
        video=video_facts(),
        kernels=kernel_facts(libraries),
        engines=engines_under(build, libraries),
    )


def kernel_facts(libraries: Libraries) -> Kernels:
    """Whether our compiled code loads here; nothing of it runs without NumPy."""
    if not libraries.numpy.loads:
        return Kernels(None, "nothing: NumPy is missing", False, "NumPy is missing")
    from segformer_deploy.engine.native.library import load_library
    from segformer_deploy.runtime.native import available, describe

    try:
        network, why = load_library().variant, None
    except BackendError as error:
        network, why = None, error.found
    return Kernels(network, describe(), available(), why)


def engines_under(build: Path, libraries: Libraries) -> tuple[EngineFolder, ...]:
    """The engine folders under `build`, newest first, each asked whether it runs here."""
    if not libraries.numpy.loads:
        return ()  # a finding says so; the engine room itself needs NumPy
    from segformer_deploy.engine.package import engine_folders

    return tuple(_engine(folder) for folder in engine_folders(build))


def _engine(folder: Path) -> EngineFolder:
    from segformer_deploy.engine import package
    from segformer_deploy.engine.manifest import read_manifest

    backend = precision = None
    try:
        manifest = read_manifest(folder)
        backend, precision = manifest.backend, manifest.delivered
        package.check_runs_here(folder)
    except SegdeployError as error:
        why = error.found
        if error.expected:
            why += f"; expected: {error.expected}"
        return EngineFolder(folder, backend, precision, False, why, error.next_step or None)
    return EngineFolder(folder, backend, precision, True)
