"""Whether a folder of plans can run on this machine; asked before a byte of a plan is loaded.

A plan is compiled code for one release of one library, a kind of GPU and a system. A library
that is handed another one fails late, or badly; the manifest says it at once, and the ONNX in
the folder is what a new plan comes from.
"""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segformer_deploy.cuda.device import Gpu, find_gpus
from segformer_deploy.engine.plan_facts import PlanFacts, number
from segformer_deploy.engine.trt.flavour import FLAVOURS, Library, load_library, release
from segformer_deploy.errors import BackendError, MismatchError

if TYPE_CHECKING:
    from segformer_deploy.engine.manifest import Manifest
    from segformer_deploy.engine.size_range import SizeRange

SOURCE_FILE = "model.onnx"
"""The graph that a folder's plan was built from."""
GPU_BACKENDS = tuple(FLAVOURS)


def this_system() -> str:
    """Operating system and processor: ``linux aarch64``."""
    return f"{sys.platform} {platform.machine().lower()}"


def rebuild_command(folder: Path, manifest: Manifest) -> str:
    """The whole command that builds `folder` again from the ONNX in it, for this machine."""
    source = str(folder / SOURCE_FILE)
    words = ["segdeploy", "build-engine", source, "--backend", manifest.backend]
    if manifest.plan is not None:
        stretched = stretched_profile(manifest)
        if stretched is not None:
            sizes = {"--opt": stretched.opt}
            if not stretched.fixed:
                sizes |= {"--min": stretched.min, "--max": stretched.max}
            words += [word for name, size in sizes.items() for word in (name, str(size))]
        for profile in () if stretched else manifest.plan.profiles:
            ends = (profile.opt,) if profile.fixed else (profile.min, profile.opt, profile.max)
            words += ["--profile", ",".join(map(str, ends))]
        batch = max(profile.batch for profile in manifest.plan.profiles)
        words += ["--batch", str(batch)] if batch > 1 else []
        for one in capabilities_to_name(manifest.backend):
            words += ["--compute-capability", one]
        for name, value in manifest.plan.options.items():
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return shlex.join([*words, "--output", str(folder)])


def stretched_profile(manifest: Manifest) -> SizeRange | None:
    """The one profile that is tuned for what every frame is stretched to; None if there is none.

    Where `--opt` asked for that size, the ONNX in the folder still has the model's own rule.
    """
    resize, profiles = manifest.spec.resize, manifest.plan.profiles if manifest.plan else ()
    stretched = len(profiles) == 1 and resize.mode == "stretch" and resize.size == profiles[0].opt
    return profiles[0] if stretched else None


def capabilities_to_name(backend: str) -> tuple[str, ...]:
    """The GPU's here, where a plan of `backend` is for it only if it is named."""
    flavour = FLAVOURS[backend]
    found = [gpu.sm for gpu in find_gpus().gpus[:1] if gpu.sm in flavour.capabilities]
    return tuple(sm for sm in found if number(sm) < number(flavour.default_capability))


def check_plan_runs_here(folder: Path, manifest: Manifest) -> Library:
    """The library that loads the plans of `folder`, once everything about them fits.

    Raises:
        MismatchError: another system, release of the library, or compute capability; with the
            command that builds the folder again here.
        MissingDependencyError: the library is not installed.
        BackendError: there is no GPU.
    """
    plan = manifest.plan
    assert plan is not None
    if plan.system != this_system():
        raise MismatchError(
            f"{folder} was built for {plan.system}, and this is {this_system()}",
            "a folder built for this system",
            rebuild_command(folder, manifest),
        )
    library = load_library(manifest.backend)
    _check_release(folder, manifest, plan, library)
    check_capability(folder, manifest, plan)
    return library


def _check_release(folder: Path, manifest: Manifest, plan: PlanFacts, library: Library) -> None:
    built, here = release(manifest.backend_version), release(library.version)
    title = library.flavour.title
    if built[:3] == here[:3]:
        return
    if plan.version_compatible and built[:1] == here[:1] and built <= here:
        return
    raise MismatchError(
        f"{folder} was built with {title} {manifest.backend_version}, and {library.version} "
        "is installed",
        f"{title} {manifest.backend_version}"
        + (", or a later one of the same major version" if plan.version_compatible else ""),
        rebuild_command(folder, manifest),
    )


def check_capability(folder: Path, manifest: Manifest, plan: PlanFacts) -> Gpu:
    """The GPU that the plans run on; asked of the driver, no context is made."""
    report = find_gpus()
    if not report.gpus:
        raise BackendError(
            f"{folder} runs on a GPU, and {report.why_none}",
            f"an NVIDIA GPU of compute capability {_alternatives(plan)}",
            "run it there; or here its ONNX on the CPU: --backend onnxruntime",
        )
    gpu = report.gpus[0]
    if not plan.runs_on_capability(gpu.sm):
        raise MismatchError(
            f"{folder} was built for compute capability {_alternatives(plan)}, and the "
            f"{gpu.name} here has {gpu.sm}",
            f"a folder built for {gpu.sm}",
            rebuild_command(folder, manifest),
        )
    return gpu


def _alternatives(plan: PlanFacts) -> str:
    return " or ".join(
        one[:-1] + " and later" if one.endswith("+") else one for one in plan.runs_on
    )
