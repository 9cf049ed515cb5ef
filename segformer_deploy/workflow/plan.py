"""The graph in a folder -> a TensorRT plan beside it, checked where its GPU is here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from segformer_deploy.cuda.device import find_gpus
from segformer_deploy.engine.here import this_system
from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.plan_facts import NOT_VERIFIED, PlanFacts
from segformer_deploy.engine.plan_folder import PLAN_FILE, load_plan
from segformer_deploy.engine.session import Shape
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.trt.build import (
    Plan,
    PlanOptions,
    Profile,
    check_options,
    plan_from_onnx,
)
from segformer_deploy.engine.trt.flavour import Library, load_library
from segformer_deploy.errors import BackendError, VerificationError
from segformer_deploy.files import user_cache
from segformer_deploy.runtime.golden import check_golden, golden_frame
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.choice import Progress
from segformer_deploy.workflow.golden import refuse_nan

LAYERS_FILE = "layers.json"
_STEPS = 1000


@dataclass(frozen=True)
class PlanRequest:
    """What a plan was asked to be, beyond backend and sizes; see `PlanOptions` for each.

    The names are those of `build-engine`'s options; `workspace` is in bytes.
    """

    capabilities: tuple[str, ...] = ()
    hardware_compatible: bool = False
    version_compatible: bool = False
    refit: bool = False
    tf32: bool = False
    aux_streams: int = 0
    workspace: int | None = None
    level: int | None = None

    def portable(self) -> dict[str, Any]:
        """What holds on another machine too, where it is not the default: for the manifest."""
        mine = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: value
            for name, value in mine.items()
            if name != "capabilities" and value != getattr(PlanRequest(), name)
        }


@dataclass(frozen=True)
class PlanTarget:
    """The library that builds, what is asked of it, and where the plan will run."""

    library: Library
    request: PlanRequest
    runs_on: tuple[str, ...]


def plan_target(backend: str, request: PlanRequest) -> PlanTarget:
    """Everything that can be refused before minutes of calibration is refused here.

    Raises MissingDependencyError or BackendError.
    """
    library = load_library(backend)
    check_options(library, request.capabilities, request.hardware_compatible)
    return PlanTarget(library, request, _runs_on(library, request))


def write_plan(
    folder: Path,
    onnx: Path,
    target: PlanTarget,
    spec: ModelSpec,
    profiles: tuple[SizeRange, ...],
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[PlanFacts, tuple[str, ...]]:
    """Build the plan of `onnx` into `folder`; (facts, notes)."""
    library, request, runs_on = target.library, target.request, target.runs_on
    options = PlanOptions(
        tuple(_shapes(one) for one in profiles),
        request.capabilities,
        request.hardware_compatible,
        request.version_compatible,
        request.refit,
        request.aux_streams,
        request.tf32,
        request.workspace,
        request.level,
        _timing_cache(library, runs_on),
    )
    say(f"building the plan with {library.name} for {'; '.join(map(str, profiles))}")
    with progress("building the plan", _STEPS) as advance:
        plan = plan_from_onnx(
            library, onnx.read_bytes(), options, say, lambda done: advance(int(_STEPS * done))
        )
    (folder / PLAN_FILE).write_bytes(plan.data)
    (folder / LAYERS_FILE).write_text(json.dumps(plan.layers, indent=1) + "\n", encoding="utf-8")
    facts = PlanFacts(
        runs_on=runs_on,
        system=this_system(),
        version_compatible=request.version_compatible,
        profiles=profiles,
        activation_memory_bytes=plan.activation_memory_bytes,
        weights_memory_bytes=plan.weights_memory_bytes,
        peak_device_bytes=_peak(plan, onnx, spec, profiles),
        bypassed=plan.bypassed,
        options=request.portable(),
        layers=len(plan.layers),
        seconds=round(plan.seconds, 3),
    )
    return facts, _notes(library, plan, spec)


def _notes(library: Library, plan: Plan, spec: ModelSpec) -> tuple[str, ...]:
    notes = list(plan.notes)
    if plan.bypassed:
        notes.append(f"without Q/DQ, which could not be built: {', '.join(plan.bypassed)}")
    if spec.precision == "int8" and not library.flavour.int8_is_fast:
        notes.append(
            f"{library.flavour.title} lists INT8 for weights only: expect a smaller plan, and the "
            "speed of FP16"
        )
    return tuple(notes)


def _runs_on(library: Library, request: PlanRequest) -> tuple[str, ...]:
    """The compute capabilities that the plan will run on."""
    flavour = library.flavour
    if request.capabilities:
        return request.capabilities
    if flavour.builds_without_gpu:
        return (f"{flavour.default_capability}+",)
    report = find_gpus()
    if not report.gpus:
        raise BackendError(
            f"{flavour.title} builds on the GPU that the plan is for, and {report.why_none}",
            "an NVIDIA GPU with its driver",
            "build on the device itself: copy the ONNX file there; or here with "
            "--backend tensorrt-rtx, which needs no GPU to build",
        )
    return ("8.0+",) if request.hardware_compatible else (report.gpus[0].sm,)


def _timing_cache(library: Library, runs_on: tuple[str, ...]) -> Path | None:
    """What TensorRT learnt of this GPU, kept for the next build in the user's cache."""
    if not library.flavour.timing_cache:
        return None
    root = user_cache()
    if root is None:
        return None
    return root / "timing" / f"{library.version}-sm{runs_on[0]}.cache"


def _shapes(sizes: SizeRange) -> Profile:
    def shape(size: FrameSize, batch: int) -> Shape:
        return (batch, size.height, size.width, 3)

    # Tuned for the batch that is asked of it; one frame must always be welcome.
    return {
        "image": (
            shape(sizes.min, 1),
            shape(sizes.opt, sizes.batch),
            shape(sizes.max, sizes.batch),
        )
    }


def _peak(plan: Plan, onnx: Path, spec: ModelSpec, profiles: tuple[SizeRange, ...]) -> int:
    """Activations, the frame and the answer: one plan's bindings live from start to end."""
    from segformer_deploy.engine.onnx_file import read_onnx_header

    bytes_each = {"float16": 2, "float32": 4, "uint8": 1, "int32": 4}
    output = read_onnx_header(onnx).outputs[0]
    bindings = []
    for one in profiles:
        height, width = one.max.height, one.max.width
        cells = -(-height // 4) * -(-width // 4) * spec.classes
        values = cells if spec.output == "logits" else one.max.pixels
        bindings.append(one.batch * (3 * one.max.pixels + bytes_each[output.dtype] * values))
    return plan.activation_memory_bytes + max(bindings)


def verify_plan(folder: Path, manifest: Manifest) -> str:
    """Run the plan on the golden frames where its GPU is here; the engine's name, or that not.

    Raises VerificationError where its masks or logits are wrong.
    """
    plan = manifest.plan
    assert plan is not None
    gpus = find_gpus().gpus
    if not gpus or not plan.runs_on_capability(gpus[0].sm):
        return NOT_VERIFIED
    engine, _ = load_plan(folder, manifest, manifest.backend)
    try:
        spec = manifest.spec
        size = spec.resize.network_size(spec.resize.size or plan.profiles[0].opt)
        refuse_nan(engine, spec, golden_frame(size, seed=0))
        with Segmenter(engine, spec=spec) as segment:
            # One class everywhere where the CPU saw several fails here as well.
            check_golden(folder, manifest, segment)
        return engine.name
    except VerificationError as error:
        error.next_step = (
            "nothing was kept: build it in another precision, or by another release of "
            f"{manifest.backend}"
        )
        raise
    finally:
        engine.close()
