"""An engine folder that does not fit this machine, built again here from the ONNX in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segformer_deploy.engine.here import SOURCE_FILE, capabilities_to_name, stretched_profile
from segformer_deploy.engine.package import check_folder, check_runs_here
from segformer_deploy.errors import EngineFolderError, MismatchError
from segformer_deploy.files import recover_folder
from segformer_deploy.workflow.build import BuildOptions, BuildReport, build_engine
from segformer_deploy.workflow.choice import Progress, silent
from segformer_deploy.workflow.plan import PlanRequest
from segformer_deploy.workflow.sizes import AskedSizes


def rebuild(
    folder: Path, say: Callable[[str], None] = lambda _: None, progress: Progress = silent
) -> BuildReport:
    """Build the plan of `folder` again as it was asked for, for this machine, in its place.

    Raises what `build_engine` raises; the older folder stays until the new one is complete.
    """
    manifest = check_folder(folder)
    plan = manifest.plan
    if plan is None:
        raise EngineFolderError(
            f"{folder} holds no plan", "a folder for tensorrt or tensorrt-rtx", "load it as it is"
        )
    try:
        request = PlanRequest(capabilities_to_name(manifest.backend), **plan.options)
    except TypeError as error:  # the seal does not vouch for what stands there
        raise EngineFolderError(
            f"{folder}: its manifest asks for options that there are not ({error})",
            "the options of build-engine",
            "build it again from its ONNX with segdeploy build-engine",
        ) from error
    one = stretched_profile(manifest)
    sizes = AskedSizes(one.opt, one.min, one.max, one.batch) if one else None
    sizes = sizes or AskedSizes(profiles=plan.profiles)
    options = BuildOptions(manifest.backend, sizes, output=folder, plan=request)
    return build_engine(folder / SOURCE_FILE, options, say, progress)


def rebuild_where_needed(
    folder: Path, say: Callable[[str], None] = lambda _: None, progress: Progress = silent
) -> bool:
    """`rebuild` where the folder was built for another library, GPU or system; whether it was.

    Whatever else keeps it from running here is raised: another build would not mend that.
    """
    recover_folder(folder)
    if not folder.is_dir():
        return False
    try:
        check_runs_here(folder)
    except MismatchError as error:
        say(f"{error.found}: building it again here")
        rebuild(folder, say, progress)
        return True
    return False
