"""Class maps and confidence against float64 upsampling, NumPy's argmax and PyTorch."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.runtime import native
from segformer_deploy.runtime.class_map import class_map_from_logits, confidence_from_logits
from segformer_deploy.runtime.class_map_numpy import _exp
from segformer_deploy.runtime.interpolation import axis, rounding_bound
from segformer_deploy.spec import FrameSize

Array = Any


def variants() -> list[str]:
    """What this machine can compute class maps with: NumPy always, C where it is compiled."""
    names = ["numpy"]
    for name in ("baseline", "avx2"):
        kernels, _ = native.load(native.LIBRARY, name)
        best, _ = native.load(native.LIBRARY)
        if kernels and best and (name == "baseline" or best.variant == name):
            names.append(name)
    return names


VARIANTS = variants()


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def each_variant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call a function once per variant and give the results by name."""

    def call(function: Any) -> dict[str, Any]:
        results = {}
        for name in VARIANTS:
            monkeypatch.setenv(native.VARIABLE, name)
            results[name] = function()
        return results

    return call


# ---- references, written without the code under test ----------------------------------------


def hat_weights(inputs: int, outputs: int) -> Array:
    """[outputs, inputs] float64: bilinear weights as hat functions around clamped centres."""
    centres = np.clip((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5, 0, inputs - 1)
    return np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(inputs)))


def upsampled64(logits: Array, height: int, width: int) -> Array:
    rows = hat_weights(logits.shape[1], height)
    columns = hat_weights(logits.shape[2], width)
    return np.einsum("yh,chw,xw->cyx", rows, logits.astype(np.float64), columns, optimize=True)


def upsampled32(logits: Array, height: int, width: int) -> Array:
    """Every class at every pixel by the stated float32 formula."""
    rows, columns = axis(logits.shape[1], height), axis(logits.shape[2], width)
    y0, y1 = rows.w_lower[:, None], rows.w_upper[:, None]
    a = logits[:, rows.lower][:, :, columns.lower]
    b = logits[:, rows.lower][:, :, columns.upper]
    c = logits[:, rows.upper][:, :, columns.lower]
    d = logits[:, rows.upper][:, :, columns.upper]
    with np.errstate(all="ignore"):
        return columns.w_lower * (y0 * a + y1 * c) + columns.w_upper * (y0 * b + y1 * d)


def assert_right(class_map: Array, logits: Array, exact: Array | None = None) -> None:
    """The class chosen at each pixel is best but for rounding, so identical where it matters."""
    exact = upsampled64(logits, *class_map.shape) if exact is None else exact
    chosen = np.take_along_axis(exact, class_map[None].astype(np.int64), axis=0)[0]
    allowed = 2 * rounding_bound(float(np.abs(logits).max()))
    assert float((exact.max(axis=0) - chosen).max()) <= allowed


def smooth_field(classes: int, height: int, width: int, seed: int = 0) -> Array:
    """Logits like a network's: blobs of classes with noise on top."""
    rng = np.random.default_rng(seed)
    coarse = 4 * rng.normal(size=(classes, max(1, height // 8), max(1, width // 8)))
    return (
        upsampled64(coarse, height, width) + 0.3 * rng.normal(size=(classes, height, width))
    ).astype(np.float32)


KINDS = ("smooth", "noise", "integers", "plateaus", "ulps", "huge", "denormal", "mixed")


def field(kind: str, shape: tuple[int, int, int], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=shape)
    if kind == "smooth":
        return smooth_field(*shape, seed)
    if kind == "integers":
        noise = np.round(noise)
    elif kind == "plateaus":
        noise = np.broadcast_to(np.round(2 * noise[:, :1, :1]), shape)
    elif kind == "ulps":
        noise = 1 + 2.0**-23 * rng.integers(-2, 3, shape)
    elif kind == "huge":
        noise = noise * 1e30
    elif kind == "denormal":
        noise = noise * 1e-43
    elif kind == "mixed":
        noise = noise * 10.0 ** rng.integers(-30, 30, (1, shape[1], 1))
    return np.ascontiguousarray(noise, np.float32)


shapes = st.tuples(st.integers(1, 24), st.integers(1, 20), st.integers(1, 40))
sizes = st.tuples(st.integers(1, 120), st.integers(1, 150))


# ---- the class map ---------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(KINDS), shapes, sizes, st.integers(0, 2**31))
def test_every_variant_gives_the_argmax_of_the_stated_formula(
    kind: str, shape: tuple[int, int, int], size: tuple[int, int], seed: int
) -> None:
    logits = field(kind, shape, seed)
    expected = upsampled32(logits, *size).argmax(axis=0)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIANTS:
            patch.setenv(native.VARIABLE, name)
            found = class_map_from_logits(logits, FrameSize(*size), threads=2)
            assert (found == expected).all(), name
    if kind != "mixed":  # there one bound for all rows would be too coarse to mean anything
        assert_right(expected, logits)


def test_network_like_logits_agree_with_float64_but_for_rounding(variant: str) -> None:
    logits = smooth_field(19, 64, 64)
    found = class_map_from_logits(logits, FrameSize(240, 320))
    exact = upsampled64(logits, 240, 320)
    assert_right(found, logits, exact)
    ordered = np.sort(exact, axis=0)
    clear = ordered[-1] - ordered[-2] > 2 * rounding_bound(float(np.abs(logits).max()))
    assert clear.mean() > 0.999
    assert (found == exact.argmax(axis=0))[clear].all()
    assert len(np.unique(found)) > 10


def test_agrees_with_pytorch_in_float64(variant: str) -> None:
    torch = pytest.importorskip("torch")
    logits = smooth_field(21, 40, 56, seed=3)
    for size in ((160, 224), (151, 333), (37, 61)):
        upsampled = torch.nn.functional.interpolate(
            torch.from_numpy(logits)[None].double(), size=size, mode="bilinear"
        )[0].numpy()
        assert_right(class_map_from_logits(logits, FrameSize(*size)), logits, upsampled)


def test_rounding_stays_within_the_stated_bound_and_comes_near_it() -> None:
    logits = np.random.default_rng(5).uniform(0.9, 1, (8, 30, 30)).astype(np.float32)
    error = np.abs(upsampled32(logits, 301, 299) - upsampled64(logits, 301, 299)).max()
    bound = rounding_bound(float(np.abs(logits).max()))
    assert bound / 10 < error <= bound


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_exact_ties_go_to_the_first_class(variant: str, scale: int) -> None:
    # Small integers and dyadic weights: nothing rounds, so the ties are exact.
    logits = np.random.default_rng(scale).integers(-2, 3, (6, 9, 35)).astype(np.float32)
    logits[4] = logits[1]
    exact = upsampled64(logits, 9 * scale, 35 * scale)
    ties = (exact == exact.max(axis=0)).sum(axis=0) > 1
    assert ties.mean() > 0.05
    found = class_map_from_logits(logits, FrameSize(9 * scale, 35 * scale))
    assert (found == exact.argmax(axis=0)).all()


def test_a_class_that_is_best_at_no_corner_wins_the_middle_of_the_cell(variant: str) -> None:
    logits = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0.6, 0.6], [0.6, 0.6]]], np.float32)
    found = class_map_from_logits(logits, FrameSize(16, 16))
    assert (found == upsampled64(logits, 16, 16).argmax(axis=0)).all()
    assert {found[0, 0], found[0, 15], found[8, 8]} == {0, 1, 2}


def test_a_class_that_only_matters_in_the_half_cells_of_the_border(variant: str) -> None:
    # Class 1 wins the last row and column alone, where positions are clamped to the grid.
    logits = np.zeros((2, 5, 33), np.float32)
    logits[0] = 1
    logits[1, -1], logits[1, :, -1] = 1.5, 1.5
    found = class_map_from_logits(logits, FrameSize(40, 264))
    assert (found == upsampled64(logits, 40, 264).argmax(axis=0)).all()
    assert (found[-4:] == 1).all()
    assert (found[:, -4:] == 1).all()
    assert found[:30, :250].max() == 0


@pytest.mark.parametrize(
    ("value", "steps"),
    [(0.7, 1), (1.0000752, 1), (-1.0000019, 1), (-1.0002862215042114, 2), (5 * 2.0**-149, 1)],
)
def test_rounding_may_hand_a_pixel_to_a_class_below_the_bound(
    each_variant: Any, value: float, steps: int
) -> None:
    """Constant planes a few units in the last place apart, which rounding makes equal in some
    pixels: without a margin the first would never win there."""
    lower = np.float32(value)
    for _ in range(steps):
        lower = np.nextafter(lower, np.float32(-np.inf))
    logits = np.empty((2, 3, 4), np.float32)
    logits[0], logits[1] = lower, value
    expected = upsampled32(logits, 23, 37).argmax(axis=0)
    assert 0 < (expected == 0).mean() < 1
    found = each_variant(lambda: class_map_from_logits(logits, FrameSize(23, 37)))
    for name in VARIANTS:
        assert (found[name] == expected).all(), name


def test_the_margin_follows_the_largest_magnitude_of_the_row_pair(each_variant: Any) -> None:
    """Cancelling rows: values near zero carry the rounding of corners near +-1e6."""
    rng = np.random.default_rng(2)
    base = (1e6 * np.where(np.arange(10) % 2, 1, -1))[None, :, None]
    logits = (base + 0.06 * rng.integers(-1, 2, (12, 10, 20))).astype(np.float32)
    expected = upsampled32(logits, 67, 131).argmax(axis=0)
    for found in each_variant(lambda: class_map_from_logits(logits, FrameSize(67, 131))).values():
        assert (found == expected).all()


@pytest.mark.parametrize("size", [(7, 90), (45, 37), (96, 130)])
@pytest.mark.parametrize("seed", range(4))
def test_values_that_are_not_finite_follow_the_plain_formula(
    variant: str, size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(9, 24, 33)).astype(np.float32)
    kinds = ([np.nan], [np.inf, -np.inf], [np.nan, np.inf, -np.inf], [3.3e38, -3.3e38])
    for value in kinds[seed]:
        logits[rng.random(logits.shape) < 0.01] = value
    values = upsampled32(logits, *size)
    assert np.isnan(values).any() or seed == 3
    found = class_map_from_logits(logits, FrameSize(*size))
    assert (found == values.argmax(axis=0)).all()


def test_all_minus_infinity_is_class_zero_and_the_first_nan_wins(variant: str) -> None:
    logits = np.full((3, 4, 4), -np.inf, np.float32)
    assert (class_map_from_logits(logits[:, :1, :1], FrameSize(1, 1)) == 0).all()
    logits[1], logits[2] = np.nan, np.inf
    found = class_map_from_logits(logits, FrameSize(16, 16))
    inside = np.zeros((16, 16), bool)
    inside[2:14, 2:14] = True
    # At the border a weight is 0, and 0 x -infinity is NaN: there class 0 is the first.
    assert (found == inside).all()
    logits[0] = 1
    assert (class_map_from_logits(logits, FrameSize(16, 16)) == 1).all()


@pytest.mark.parametrize(("classes", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "int32")])
def test_the_last_of_many_classes_can_be_named(variant: str, classes: int, dtype: str) -> None:
    logits = smooth_field(classes, 6, 10)
    logits[-1, 2:4, 3:7] = 100
    found = class_map_from_logits(logits, FrameSize(24, 40))
    assert found.dtype == dtype
    assert found[12, 20] == classes - 1
    assert_right(found, logits)


def test_300_classes_with_many_candidates_in_each_cell(variant: str) -> None:
    logits = np.random.default_rng(0).normal(size=(300, 9, 20)).astype(np.float32)
    found = class_map_from_logits(logits, FrameSize(72, 155))
    assert (found == upsampled32(logits, 72, 155).argmax(axis=0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_outputs_of_a_few_pixels(variant: str, size: tuple[int, int]) -> None:
    logits = smooth_field(7, 33, 17, seed=1)
    found = class_map_from_logits(logits, FrameSize(*size))
    assert found.shape == size
    assert (found == upsampled32(logits, *size).argmax(axis=0)).all()


def test_a_4k_class_map_from_one_logit_and_from_a_grid(each_variant: Any) -> None:
    size = FrameSize(2160, 3840)
    logits = smooth_field(3, 30, 50, seed=4)
    first, *others = each_variant(lambda: class_map_from_logits(logits, size)).values()
    assert all((first == other).all() for other in others)
    rows = slice(None, None, 240)
    exact = upsampled64(logits, 2160, 3840)[:, rows]
    assert_right(first[rows], logits, exact)
    single = class_map_from_logits(logits[:, :1, :1], size)
    assert (single == logits[:, 0, 0].argmax()).all()


@pytest.mark.parametrize("threads", [None, 1, 2, 3, 7])
def test_threads_do_not_change_the_answer(variant: str, threads: int | None) -> None:
    logits = smooth_field(30, 64, 64)
    found = class_map_from_logits(logits, FrameSize(250, 330), threads=threads)
    assert (found == upsampled32(logits, 250, 330).argmax(axis=0)).all()


def test_half_precision_and_views_are_accepted_and_left_alone(variant: str) -> None:
    logits = smooth_field(5, 12, 30)
    size = FrameSize(48, 60)
    view = logits[:, :, ::2]
    kept = logits.copy()
    assert_right(class_map_from_logits(view, size), view)
    half = logits.astype(np.float16)
    expected = class_map_from_logits(half.astype(np.float32), size)
    assert (class_map_from_logits(half, size) == expected).all()
    assert (logits == kept).all()


@pytest.mark.parametrize(
    "logits",
    [np.zeros((3, 4), np.float32), np.zeros((3, 4, 4)), np.zeros((0, 4, 4), np.float32)],
    ids=["two axes", "float64", "no class"],
)
def test_arrays_that_are_no_logits_are_refused(logits: Array) -> None:
    with pytest.raises(ValueError, match="float32 or float16"):
        class_map_from_logits(logits, FrameSize(8, 8))


def test_the_numpy_version_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "numpy")
    logits = smooth_field(150, 24, 32)
    tracemalloc.start()
    class_map_from_logits(logits, FrameSize(480, 640))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # the upsampled logits would be 184 MB


# ---- confidence ------------------------------------------------------------------------------


def softmax64(logits: Array, height: int, width: int) -> Array:
    values = upsampled64(logits, height, width)
    powers = np.exp(values - values.max(axis=0))
    return powers / powers.sum(axis=0)


def test_confidence_is_the_softmax_probability_of_the_class(each_variant: Any) -> None:
    logits = smooth_field(19, 20, 31)
    size = FrameSize(83, 117)
    class_map = class_map_from_logits(logits, size)
    results = each_variant(lambda: confidence_from_logits(logits, class_map, threads=2))
    expected = np.take_along_axis(softmax64(logits, 83, 117), class_map[None].astype(int), 0)[0]
    for found in results.values():
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, rel=2e-5)
        assert (found == results["numpy"]).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(("noise", "huge", "denormal", "mixed")), shapes, sizes, st.integers(0, 99))
def test_confidence_has_the_same_bits_in_every_variant(
    kind: str, shape: tuple[int, int, int], size: tuple[int, int], seed: int
) -> None:
    logits = field(kind, shape, seed)
    if seed % 3 == 0:
        logits[0, 0, 0] = (np.nan, np.inf)[seed % 2]
    class_map = np.random.default_rng(seed).integers(0, shape[0], size)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIANTS:
            patch.setenv(native.VARIABLE, name)
            results.append(confidence_from_logits(logits, class_map, threads=2))
    for found in results:
        assert np.array_equal(found, results[0], equal_nan=True)


def test_confidences_of_all_classes_sum_to_one(variant: str) -> None:
    logits = smooth_field(6, 9, 9)
    maps = (np.full((30, 31), c, np.uint8) for c in range(6))
    total = sum(confidence_from_logits(logits, one).astype(float) for one in maps)
    assert total == pytest.approx(np.ones((30, 31)), abs=1e-6)


def test_confidence_above_256_classes_and_where_a_logit_is_nan(variant: str) -> None:
    logits = np.zeros((300, 3, 3), np.float32)
    logits[299] = 8
    class_map = class_map_from_logits(logits, FrameSize(12, 12))
    found = confidence_from_logits(logits, class_map)
    assert found == pytest.approx(np.full((12, 12), 1 / (1 + 299 * np.exp(-8))), rel=1e-5)
    logits[299, 0, 0] = np.nan
    class_map = class_map_from_logits(logits, FrameSize(12, 12))
    found = confidence_from_logits(logits, class_map)
    assert np.isnan(found[0, 0])
    assert not np.isnan(found[11, 11])


def test_the_exponential_is_right_to_two_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88, 1_000_001).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    unit = np.spacing(expected.astype(np.float32)).astype(np.float64)
    assert (np.abs(_exp(x) - expected) / unit).max() < 2


@pytest.mark.parametrize(
    "class_map",
    [np.full((4, 4), 3, np.uint8), np.full((4, 4), -1), np.zeros((4, 4)), np.zeros(4, np.uint8)],
    ids=["class beyond", "negative", "floats", "one axis"],
)
def test_confidence_refuses_maps_that_do_not_belong_to_the_logits(class_map: Array) -> None:
    with pytest.raises(ValueError, match="class map"):
        confidence_from_logits(np.zeros((3, 2, 2), np.float32), class_map)
