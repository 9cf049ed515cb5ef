"""The options of a TensorRT plan, as `build-engine` takes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import say
from segformer_deploy.errors import InputError, SpecError

if TYPE_CHECKING:
    from segformer_deploy.engine.plan_facts import PlanFacts
    from segformer_deploy.engine.size_range import SizeRange
    from segformer_deploy.workflow.plan import PlanRequest

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Profile = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HxW | MIN,OPT,MAX",
        help="Plans: a range of network sizes; several narrow ones if repeated.",
    ),
]
ComputeCapability = Annotated[
    list[str] | None,
    typer.Option(
        metavar="X.Y", help="TensorRT-RTX: a GPU to build for; repeat for more. Default: 8.0 on."
    ),
]
HardwareCompatible = Annotated[
    bool,
    typer.Option("--hardware-compatible", help="TensorRT: one plan for all GPUs from 8.0 on."),
]
VersionCompatible = Annotated[
    bool,
    typer.Option("--version-compatible", help="Plans: later releases of this major load it too."),
]
Refit = Annotated[bool, typer.Option("--refit", help="Plans: weights can be exchanged later.")]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Plans: FP32 products in TF32: faster, no longer FP32.")
]
AuxStreams = Annotated[
    int, typer.Option(min=0, max=7, help="Plans: extra streams, each with memory of its own.")
]
Workspace = Annotated[
    str | None,
    typer.Option(metavar="256M", help="Plans: a ceiling on scratch memory; free if left out."),
]
Level = Annotated[
    int | None, typer.Option(min=0, max=5, help="TensorRT: how hard it looks for fast kernels.")
]


def bytes_of(text: str) -> int:
    """``256M`` -> 268435456; InputError where it is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise InputError(f"a memory size of '{text}'", "bytes, or 64K, 256M, 1.5G")
    size = float(found[1]) * _UNITS[found[2].upper()]
    if not 1 <= size < 1 << 63:
        raise InputError(f"a memory size of '{text}'", "at least a byte, and less than 2^63")
    return int(size)


def profile_from_text(text: str, batch: int) -> SizeRange:
    """``512x512``, or ``256x256,512x512,1024x2048``; SpecError otherwise."""
    from segformer_deploy.engine.size_range import SizeRange
    from segformer_deploy.spec import FrameSize

    sizes = [FrameSize.parse(part) for part in text.split(",")]
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3:
        raise SpecError(
            f"profile '{text}'", "one size, or three: smallest,usual,largest", "--profile 512x512"
        )
    return SizeRange(sizes[0], sizes[1], sizes[2], batch)


def plan_request(**options: Any) -> PlanRequest:
    """Checked; the arguments are `PlanRequest`'s, with the workspace as text."""
    from segformer_deploy.workflow.plan import PlanRequest

    workspace = options.pop("workspace")
    capabilities = tuple(options.pop("capabilities") or ())
    return PlanRequest(
        capabilities=capabilities,
        workspace=None if workspace is None else bytes_of(workspace),
        **options,
    )


def refuse_without_plan(options: dict[str, Any]) -> None:
    """InputError where an option of plans is given and no plan is built."""
    # `--level 0` is something that was given; no streams beside the first is what there is anyway.
    given = [n for n, value in options.items() if value or (n == "--level" and value is not None)]
    if given:
        raise InputError(
            f"{given[0]} without a plan",
            "--backend tensorrt or tensorrt-rtx beside it: the CPU's engines have no such thing",
        )


def show_plan(plan: PlanFacts) -> None:
    """Where a plan runs and what memory it needs, for people."""
    runs_on = ", ".join(one.replace("+", " and later") for one in plan.runs_on)
    say(f"plan: for compute capability {runs_on}, {'; '.join(map(str, plan.profiles))}")
    say(
        f"device memory, by the builder's own count: {plan.peak_device_bytes / 1e6:.2f} MB at the "
        f"worst moment of a run (activations {plan.activation_memory_bytes / 1e6:.2f}, the rest "
        f"frame and answer), weights {plan.weights_memory_bytes / 1e6:.2f} MB"
    )
