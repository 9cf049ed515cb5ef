"""Our kernels against the CPU's, on both machines that stand in for a GPU.

The C++ build runs everything; what NVRTC made of the same sources, interpreted, all but the
largest cases. Nothing here proves a cubin: that needs the GPU it is for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from segformer_deploy.cuda.compiled import FOLDER
from segformer_deploy.runtime import resample
from segformer_deploy.runtime.class_map import class_map_from_logits, confidence_from_logits
from segformer_deploy.spec import FrameSize
from tests.cuda import kernel_calls
from tests.cuda.kernel_machines import HostBuild, InterpretedPtx, Machine
from tests.cuda.nvrtc import newest_ptx
from tests.engine.trt.proof import missing

Array = Any
COMPILER = shutil.which("g++") or shutil.which("clang++")
MACHINES = ("C++", "shipped PTX", "newest PTX")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostBuild:
    if COMPILER is None:
        missing("a C++ compiler", "apt install g++")
    return HostBuild(tmp_path_factory.mktemp("host"), COMPILER)


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "C++":
        yield request.getfixturevalue("host")
    elif request.param == "shipped PTX":
        yield InterpretedPtx((FOLDER / "compute_75.ptx").read_text())
    else:
        yield InterpretedPtx(newest_ptx())


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- logits ------------------------------------------------------------------------------


def smooth(shape: tuple[int, ...]) -> Array:
    return rng(1).normal(size=shape).cumsum(2).cumsum(3) / 8


def noise(shape: tuple[int, ...]) -> Array:
    return rng(2).normal(size=shape)


def ties(shape: tuple[int, ...]) -> Array:
    """Few values, both zeros among them."""
    return np.round(rng(3).normal(size=shape)) * rng(4).choice([1.0, -1.0], shape)


def not_finite(shape: tuple[int, ...]) -> Array:
    logits = rng(5).normal(size=shape)
    at = rng(6).random(shape)
    logits[at < 0.003] = np.nan
    logits[(at > 0.4) & (at < 0.403)] = np.inf
    logits[at > 0.997] = -np.inf
    return logits


def huge(shape: tuple[int, ...]) -> Array:
    """Around the largest logit that may be pruned by, 2^127, and beyond (in FP16: infinite)."""
    return rng(7).normal(size=shape) * 2.0**126


def tiny(shape: tuple[int, ...]) -> Array:
    """Subnormal in FP32, and in FP16 the smallest numbers there are."""
    return rng(8).integers(-6, 7, shape) * 2.0**-149 + rng(9).integers(-6, 7, shape) * 2.0**-24


def ascending(shape: tuple[int, ...]) -> Array:
    """Each class a little above the one before: the list of candidates is always full."""
    steps = np.arange(shape[1])[:, None, None] * 2.0**-20
    return 1 + steps + (rng(10).random(shape) < 0.1) * 2.0**-12


def climbing(shape: tuple[int, ...]) -> Array:
    """Each class above all before it, so that the list is compacted again and again."""
    return np.arange(shape[1])[:, None, None] * 3.0 + rng(11).normal(size=shape)


KINDS: tuple[Callable[[tuple[int, ...]], Array], ...] = (
    *(smooth, noise, ties, not_finite, huge, tiny, ascending, climbing),
)
# batch, classes, h, w -> H, W
SHAPES = (
    ((2, 19, 33, 41), (131, 170)),
    ((1, 150, 16, 32), (64, 128)),
    ((4, 5, 17, 9), (70, 33)),
    ((1, 7, 30, 40), (20, 25)),
    ((1, 256, 9, 33), (36, 132)),
    ((1, 300, 9, 7), (40, 30)),
    ((1, 1, 3, 3), (12, 12)),
    ((1, 2, 1, 1), (5, 7)),
)
IDS = [f"{'x'.join(map(str, shape))}-{size[0]}x{size[1]}" for shape, size in SHAPES]


def make(kind: Callable[..., Array], shape: tuple[int, ...], dtype: str) -> Array:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(kind(shape), dtype)


def on_cpu(logits: Array, size: tuple[int, int]) -> Array:
    with np.errstate(all="ignore"):
        return np.stack([class_map_from_logits(one, FrameSize(*size)) for one in logits])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=IDS)
def test_class_map(
    machine: Machine, shape: tuple[int, ...], size: tuple[int, int], dtype: str
) -> None:
    # Interpreted, the classes of one shape go through two kinds of logits each; all go natively.
    turn = SHAPES.index((shape, size)) + (dtype == "float32")
    kinds = KINDS if machine.name == "C++" else [KINDS[(turn + k) % len(KINDS)] for k in (0, 3, 6)]
    for kind in kinds:
        logits = make(kind, shape, dtype)
        expected = on_cpu(logits, size)
        found = kernel_calls.class_map(machine, logits, size)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=kind.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_class_map_of_every_kind(machine: Machine, kind: Callable[..., Array]) -> None:
    for dtype in ("float16", "float32"):
        logits = make(kind, (1, 12, 9, 11), dtype)
        expected = on_cpu(logits, (37, 44))
        for prune in (True, False):
            found = kernel_calls.class_map(machine, logits, (37, 44), prune)
            np.testing.assert_array_equal(found, expected)


def test_class_map_of_a_whole_frame(machine: Machine) -> None:
    logits = make(smooth, (1, 19, 128, 128), "float16")
    np.testing.assert_array_equal(
        kernel_calls.class_map(machine, logits, (512, 512)), on_cpu(logits, (512, 512))
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 19, 270, 480), (1080, 1920)),
        ((2, 150, 128, 128), (512, 512)),
        ((1, 19, 1, 400), (3, 9)),
    ],
)
def test_class_map_of_large_frames(
    host: HostBuild, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    for kind, dtype in ((smooth, "float16"), (noise, "float32")):
        logits = make(kind, shape, dtype)
        found = kernel_calls.class_map(host, logits, size)
        np.testing.assert_array_equal(found, on_cpu(logits, size))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "size"), [((2, 7, 9, 11), (31, 40)), ((1, 300, 3, 4), (10, 9))])
def test_confidence(
    machine: Machine,
    shape: tuple[int, ...],
    size: tuple[int, int],
    kind: Callable[..., Array],
    dtype: str,
) -> None:
    logits = make(kind, shape, dtype)
    maps = on_cpu(logits, size)
    with np.errstate(all="ignore"):
        pairs = zip(logits, maps, strict=True)
        expected = np.stack([confidence_from_logits(one, each) for one, each in pairs])
    found = kernel_calls.confidence(machine, logits, maps)
    # One NaN is as good as another.
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(found[numbers].view("u4"), expected[numbers].view("u4"))


# ---- frames ------------------------------------------------------------------------------

RESIZES = (
    *(((60, 80), (32, 32)), ((90, 50), (32, 64)), ((40, 36), (40, 70)), ((48, 64), (48, 64))),
    *(((64, 32), (37, 32)), ((33, 47), (64, 90)), ((200, 40), (33, 35))),
)
HD = ((1080, 1920), (512, 1024))


def frame(height: int, width: int) -> Array:
    return rng(height, width).integers(0, 256, (height, width, 3), np.uint8)


def nv12(height: int, width: int) -> tuple[Array, Array]:
    """Both planes, and what OpenCV makes of them."""
    planes = rng(height, width, 2).integers(0, 256, (height * 3 // 2, width), np.uint8)
    return planes, cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12)


def padded(source: Array, more: int) -> Array:
    """The same rows further apart, as a decoder's pitch leaves them."""
    wide = np.full((source.shape[0], source.shape[1] + more, *source.shape[2:]), 77, np.uint8)
    wide[:, : source.shape[1]] = source
    return wide[:, : source.shape[1]]


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("have", "want"), RESIZES)
def test_pillows_resize(
    machine: Machine, have: tuple[int, int], want: tuple[int, int], filter: resample.Filter
) -> None:
    source = frame(*have)
    for how in ("bgr", "rgb"):
        expected = resample.resize(source, *want, filter, swap=how == "bgr")
        for one in (source, padded(source, 5)):
            np.testing.assert_array_equal(
                kernel_calls.resize(machine, one, want, filter, how), expected
            )


@pytest.mark.parametrize(
    ("have", "want"),
    [((60, 80), (32, 32)), ((90, 50), (32, 64)), ((48, 64), (48, 64)), ((48, 64), (30, 64))],
)
def test_nv12_is_opencvs(machine: Machine, have: tuple[int, int], want: tuple[int, int]) -> None:
    planes, rgb = nv12(*have)
    expected = resample.resize(rgb, *want, "bilinear")
    for one in (planes, padded(planes, 16)):
        found = kernel_calls.resize(machine, one, want, "bilinear", "nv12")
        np.testing.assert_array_equal(found, expected)
    if have != want:
        found = kernel_calls.bilinear(machine, planes, want, "nv12")
        np.testing.assert_array_equal(found, cv2.resize(rgb, want[::-1]))


def test_nv12_of_every_colour(host: HostBuild) -> None:
    """All pairs of chroma under 16 kinds of light, of which 4 are out of the video range."""
    levels = np.array([0, 8, 16, 17, 60, 90, 128, 150, 180, 200, 220, 234, 235, 236, 250, 255])
    luma = np.tile(levels.reshape(4, 4), (256, 256)).astype(np.uint8)
    u, v = np.meshgrid(np.arange(256), np.arange(256))
    pairs = np.stack([u, v], -1).astype(np.uint8)
    chroma = pairs.repeat(2, 0).repeat(2, 1).reshape(512, 1024)
    planes = np.concatenate([luma, chroma])
    found = kernel_calls.resize(host, planes, (1024, 1024), "bilinear", "nv12")
    np.testing.assert_array_equal(found, cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12))


@pytest.mark.parametrize(
    ("have", "want"), [*((a, b) for a, b in RESIZES if a != b), ((64, 80), (32, 40))]
)
def test_opencvs_resize(machine: Machine, have: tuple[int, int], want: tuple[int, int]) -> None:
    """Bit for bit, halving included, which OpenCV computes as a mean of areas."""
    source = frame(*have)
    expected = cv2.resize(source, want[::-1], interpolation=cv2.INTER_LINEAR)
    found = kernel_calls.bilinear(machine, source, want)
    np.testing.assert_array_equal(found, expected[..., ::-1])


def test_large_frames(host: HostBuild) -> None:
    have, want = HD
    source = frame(*have)
    for filter in ("bilinear", "bicubic"):
        expected = resample.resize(source, *want, filter, swap=True)
        found = kernel_calls.resize(host, source, want, filter)
        np.testing.assert_array_equal(found, expected)
    for size in (want, (512, 512), (1024, 2048), (540, 960)):
        expected = cv2.resize(source, size[::-1])[..., ::-1]
        np.testing.assert_array_equal(kernel_calls.bilinear(host, source, size), expected)
    planes, rgb = nv12(*have)
    found = kernel_calls.resize(host, planes, want, "bilinear", "nv12")
    np.testing.assert_array_equal(found, resample.resize(rgb, *want, "bilinear"))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_overlay(machine: Machine, opacity: float, dtype: str) -> None:
    """Within one level of OpenCV's, which may contract; at its usual 0.5, the same."""
    source = frame(45, 70)
    palette = np.concatenate([rng(1).integers(0, 256, (19, 3)), [[0, 0, 0]]]).astype(np.uint8)
    class_map = rng(2).integers(0 if dtype == "uint8" else -3, 25, (45, 70)).astype(dtype)
    inside = (class_map >= 0) & (class_map < 19)
    colours = palette[np.where(inside, class_map, 19)]
    expected = cv2.addWeighted(source, 1.0 - opacity, colours, opacity, 0.0).astype(int)
    found = kernel_calls.overlay(machine, source, class_map, palette, opacity).astype(int)
    assert abs(found - expected).max() <= 1
    assert (found != expected).mean() <= (0.01 if opacity not in (0.0, 0.5, 1.0) else 0.0)
