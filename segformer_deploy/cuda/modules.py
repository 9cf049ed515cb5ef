"""Which image of the kernels a GPU gets, and why.

In order of preference:

1. the cubin of just this architecture;
2. the cubin of an older minor revision of the same major one. NVIDIA's programming guide
   ("Binary Compatibility") promises that for graphics and data-centre GPUs, and neither for
   Tegra, as on a Jetson, nor between the two: there, only just this architecture will do;
3. the PTX for 7.5, which every later GPU's driver compiles when it loads it;
4. what an NVRTC on this machine makes of the sources, where a driver is too old for all that.

A driver loads cubins of its own major release of CUDA and of older ones, and PTX of no newer
release than its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.cuda.compile import Compiled, Kind, Nvrtc
from segformer_deploy.cuda.compiled import Shipped, shipped
from segformer_deploy.cuda.nvrtc_library import Version, find_nvrtc
from segformer_deploy.errors import BackendError, SegdeployError

OLDEST = (7, 5)
"""CUDA 13 compiles for nothing older, and no TensorRT that we use runs there."""
# X1, X2, Xavier, Orin, 8.8 (of CUDA 13), Thor (10.1 until CUDA 13 called it 11.0).
_TEGRA = {(5, 3), (6, 2), (7, 2), (8, 7), (8, 8), (10, 1), (11, 0)}


@dataclass(frozen=True)
class Image:
    """What to hand to cuModuleLoadData.

    Attributes:
        data: a cubin, or PTX that ends in the zero byte the driver looks for.
        how: one sentence: what this is and why it was chosen.
    """

    data: bytes
    kind: Kind
    how: str


def image_for(capability: Version, cuda_version: Version | None = None) -> Image:
    """The first of `images_for`.

    Args:
        capability: the GPU's: (8, 7) is a Jetson Orin.
        cuda_version: the highest CUDA that its driver serves (`GpuReport.cuda_version`); None
            where it does not say: then nothing is left out for its sake.

    Raises:
        BackendError: a GPU older than 7.5, or a driver that can use nothing of ours.
    """
    return next(images_for(capability, cuda_version))


def images_for(capability: Version, cuda_version: Version | None = None) -> Iterator[Image]:
    """What may run there, best first: where the driver refuses one, load the next.

    Raises:
        BackendError: a GPU older than 7.5; or, asked for more than there is, why not.
    """
    if capability < OLDEST:
        raise BackendError(
            f"a GPU of compute capability {_dotted(capability)}",
            f"{_dotted(OLDEST)} or newer",
            "use the CPU: segdeploy build-engine --backend native",
        )
    left_out = []
    for one in sorted(shipped(), key=lambda one: one.capability, reverse=True):
        if one.kind == "cubin" and _fits(one.capability, capability):
            if why_not := _refused(one, cuda_version):
                left_out.append(why_not)
            else:
                yield Image(one.read(), one.kind, _how(one, capability))
    for one in shipped():
        if one.kind == "ptx":
            if why_not := _refused(one, cuda_version):
                left_out.append(why_not)
            else:
                yield Image(_ended(one.read()), one.kind, _how(one, capability))
    yield _compiled_here(capability, cuda_version, left_out)
    raise BackendError(
        f"the driver takes no image of our kernels for compute capability {_dotted(capability)}, "
        "not even what was compiled here",
        "a driver that fits its GPU",
        "segdeploy doctor says what is here; update the driver",
    )


def _fits(made_for: Version, capability: Version) -> bool:
    if made_for == capability:
        return True
    if made_for in _TEGRA or capability in _TEGRA:
        return False
    return made_for[0] == capability[0] and made_for[1] < capability[1]


def _refused(one: Shipped, cuda_version: Version | None) -> str | None:
    """Why a driver for `cuda_version` does not load it."""
    made_by = one.compiler_version
    least = (made_by[0], 0) if one.kind == "cubin" else made_by
    if cuda_version is None or cuda_version >= least:
        return None
    return (
        f"the {_what(one)} needs a driver for CUDA {_dotted(least)} or newer, "
        f"this one is for {_dotted(cuda_version)}"
    )


def _how(one: Shipped, capability: Version) -> str:
    if one.kind == "ptx":
        return (
            f"{_what(one)}, compiled by the driver: no cubin is shipped that it takes for "
            f"{_dotted(capability)}"
        )
    if one.capability == capability:
        return f"{_what(one)}, made for this GPU's {_dotted(capability)}"
    return (
        f"{_what(one)}, which a GPU of {_dotted(capability)} runs too: the same major revision, "
        "an older minor one"
    )


def _what(one: Shipped) -> str:
    return f"shipped {one.kind} for {_dotted(one.capability)} (NVRTC {one.compiler})"


def _compiled_here(capability: Version, cuda_version: Version | None, left_out: list[str]) -> Image:
    reasons = "; ".join(left_out) or "the driver took none of the shipped images"
    refusals = []
    next_step = "update the driver, or pip install nvidia-cuda-nvrtc-cu12 for a CUDA 12 driver"
    libraries: list[Path | None] = [*find_nvrtc()]
    for library in libraries or [None]:
        try:
            compiler = Nvrtc(library)
            made = _made(compiler, capability, cuda_version)
        except SegdeployError as error:
            refusals.append(error.found)
            next_step = error.next_step or next_step
            continue
        data = _ended(made.data) if made.kind == "ptx" else made.data
        how = f"{made.kind} for {made.architecture}, compiled here by NVRTC {made.compiler}"
        return Image(data, made.kind, f"{how}: {reasons}")
    raise BackendError(
        f"no image of the GPU's kernels for compute capability {_dotted(capability)}: {reasons}; "
        f"and compiling it here failed: {'; '.join(refusals)}",
        "a driver for CUDA 12.6 or newer, or an NVRTC of the driver's own release",
        next_step,
    )


def _made(compiler: Nvrtc, capability: Version, cuda_version: Version | None) -> Compiled:
    if cuda_version is not None and compiler.version[0] > cuda_version[0]:
        raise BackendError(
            f"NVRTC {_dotted(compiler.version)} is newer than the driver's CUDA "
            f"{_dotted(cuda_version)}",
            "one of the driver's major release, or older",
            "pip install nvidia-cuda-nvrtc-cu12 for a CUDA 12 driver, or update the driver",
        )
    try:
        return compiler.compile("sm_{}{}".format(*capability))
    except BackendError:
        if cuda_version is not None and compiler.version > cuda_version:
            raise
        # A compiler older than the GPU: its PTX is still good for all that came later.
        return compiler.compile("compute_{}{}".format(*OLDEST), "ptx")


def _ended(ptx: bytes) -> bytes:
    return ptx if ptx.endswith(b"\0") else ptx + b"\0"


def _dotted(version: Version) -> str:
    return "{}.{}".format(*version)
