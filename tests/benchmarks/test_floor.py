"""The memory floor: its executor against PyTorch, its arithmetic against the arena, its cuts."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from floor import chart, report  # noqa: E402
from floor.arena import Arena, Buffer  # noqa: E402
from floor.bound import least_live_bytes, live_bytes  # noqa: E402
from floor.calibrate import grids_from_extremes, observe  # noqa: E402
from floor.executor import Executor  # noqa: E402
from floor.grids import Bytes, Grid, Reals, grid_from_range, identity  # noqa: E402
from floor.layers import gelu, product, softmax  # noqa: E402
from floor.network import Affine, network_from_model  # noqa: E402
from floor.prepare import Linear, Ready, _Maker, ready_from_network  # noqa: E402
from floor.schedule import arena_bytes, phases, plan_within, smallest_bytes  # noqa: E402
from floor.score import difference, miou_of  # noqa: E402
from floor.space import FAST, LEAN, LEAN_AGAIN, Plan, Space  # noqa: E402

from segformer_deploy.bench.accuracy import ConfusionMatrix  # noqa: E402
from segformer_deploy.errors import CheckpointError, FrameError, RunError  # noqa: E402
from segformer_deploy.model.segformer import Segformer, random_segformer  # noqa: E402
from segformer_deploy.model.variants import SegformerConfig, config_for  # noqa: E402
from segformer_deploy.runtime.class_map import class_map_from_logits  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from tests.model.tiny import MEAN, STD, normalised, random_frames  # noqa: E402

CONFIG = SegformerConfig((4, 8, 20, 16), (1, 2, 1, 1), head_channels=12, classes=5)
B0 = config_for("b0", 11)
SMALL = FrameSize(32, 45)
OUT = FrameSize(30, 41)
plans = st.builds(
    Plan,
    tokens=st.integers(1, 20),
    keys=st.integers(1, 9),
    columns=st.integers(1, 16),
    hidden=st.integers(6, 80),
    pixels=st.integers(1, 70),
    keep_c1=st.booleans(),
)


@cache
def model() -> Segformer:
    return random_segformer(CONFIG, seed=3)


@cache
def ready(quantised: bool, size: FrameSize = SMALL) -> Ready:
    network = network_from_model(model(), MEAN, STD)
    if not quantised:
        return ready_from_network(network)
    seen = observe(network, size, [frame_of(size, seed) for seed in range(4)])
    return ready_from_network(network, grids_from_extremes(network, seen))


def frame_of(size: FrameSize, seed: int = 0) -> Any:
    """Soft patches of colour: on plain noise a network has no opinion that rounding could keep."""
    coarse = random_frames(1, 5, 6, seed)[0].astype(np.float32)
    return cv2.resize(coarse, (size.width, size.height)).clip(0, 255).astype(np.uint8)


def torch_logits(size: FrameSize) -> Any:
    with torch.no_grad():
        return model()(normalised(frame_of(size)[None]))[0].numpy()


class Watch:
    """Collects the logits of a float run: chunks of a row, in order."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def __call__(self, name: str, values: Any, at: int) -> None:
        if name == "logits":
            self.parts.append(values.copy())

    def logits(self, shape: tuple[int, ...]) -> Any:
        return np.concatenate(self.parts).T.reshape(shape)


@pytest.mark.parametrize("plan", [LEAN, LEAN_AGAIN, FAST, Plan(3, 2, 5, 7, 11)])
@pytest.mark.parametrize("size", [SMALL, FrameSize(33, 32)])
def test_with_float_numbers_the_schedule_is_the_published_network(
    plan: Plan, size: FrameSize
) -> None:
    watch = Watch()
    run = Executor(ready(False), size, plan, numbers=Reals(watch))
    class_map = run.class_map(frame_of(size), OUT)
    wanted = torch_logits(size)
    logits = watch.logits(wanted.shape)
    assert np.abs(logits - wanted).max() < 1e-5 * np.abs(wanted).max()
    # The same upsampling and argmax as the Segmenter's, bit for bit.
    np.testing.assert_array_equal(class_map, class_map_from_logits(logits, OUT))


@settings(max_examples=6)
@given(plan=plans)
def test_no_cut_changes_a_bit_and_the_arithmetic_is_the_high_water_mark(plan: Plan) -> None:
    run = Executor(ready(True), SMALL, plan)
    run.arena.poison()
    found = run.class_map(frame_of(SMALL), OUT)
    run.arena.check()
    np.testing.assert_array_equal(found, _fast_map())
    assert run.arena.peak == run.arena.capacity == arena_bytes(run.space)
    assert run.arena.used == 0


@cache
def _fast_map() -> Any:
    return Executor(ready(True), SMALL, FAST).class_map(frame_of(SMALL), OUT)


def test_eight_bits_are_close_to_the_float_network() -> None:
    wanted = class_map_from_logits(torch_logits(SMALL), OUT)
    agreement = float((_fast_map() == wanted).mean())
    assert agreement > 0.9, agreement
    assert len(np.unique(wanted)) > 2


def test_a_second_frame_does_not_see_the_first() -> None:
    run = Executor(ready(True), SMALL, LEAN_AGAIN)
    run.class_map(255 - frame_of(SMALL), OUT)
    np.testing.assert_array_equal(run.class_map(frame_of(SMALL), OUT), _fast_map())


@pytest.mark.parametrize("plan", [LEAN, LEAN_AGAIN])
def test_one_byte_too_few_is_refused(plan: Plan) -> None:
    space = Space(CONFIG, SMALL, plan)
    run = Executor(ready(True), SMALL, plan, arena=Arena(arena_bytes(space) - 1))
    with pytest.raises(RunError, match="has no room for"):
        run.class_map(frame_of(SMALL), OUT)


def test_a_write_outside_of_the_arena_is_found() -> None:
    arena = Arena(64)
    view = arena.take(Buffer((4,), "float32"))
    arena.check()
    outside = np.lib.stride_tricks.as_strided(view, (17,), (4,))
    outside[16] = 0
    with pytest.raises(RunError, match="after the arena"):
        arena.check()


def test_nothing_of_size_lies_outside_of_the_arena() -> None:
    peaks = []
    for size in (FrameSize(32, 32), FrameSize(64, 64)):
        run = Executor(ready(True), size, replace(LEAN_AGAIN, tokens=8, columns=8, hidden=80))
        frame = frame_of(size)
        run(frame, OUT, lambda y, x, pixels: None)  # tables of the interpolation are made once
        tracemalloc.start()
        run(frame, OUT, lambda y, x, pixels: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Four times the pixels: some hundred bytes of Python's own, and a line of the frame.
    assert peaks[1] - peaks[0] < 1500
    assert max(peaks) < 25_000


@pytest.mark.parametrize(
    ("side", "kib"), [(512, 992), (256, 248), (160, 96.875), (128, 62), (64, 15.5)]
)
def test_the_live_set_of_b0_is_the_published_one(side: int, kib: float) -> None:
    assert live_bytes(B0, FrameSize(side, side)) == 1024 * kib


@given(rows=st.integers(4, 22), columns=st.integers(4, 22))
def test_b0s_floor_in_closed_form(rows: int, columns: int) -> None:
    """docs/small-memory.md: the maps, stage 4's keys and values, and one token's workspace."""
    keys = rows * columns
    pixels = 1024 * keys
    work = max(5124, 4232 + 4 * keys)
    assert smallest_bytes(B0, FrameSize(32 * rows, 32 * columns)) == 4.375 * pixels + work


@given(height=st.integers(32, 300), width=st.integers(32, 300), plan=plans)
def test_a_schedule_is_above_its_bound(height: int, width: int, plan: Plan) -> None:
    size = FrameSize(height, width)
    space = Space(B0, size, plan)
    bound = live_bytes(B0, size, 0 if plan.keep_c1 else 1)
    assert bound < arena_bytes(space) == max(phase.bytes for phase in phases(space))
    assert least_live_bytes(B0, size)[0] <= bound


def test_a_plan_fits_its_budget_or_is_refused() -> None:
    size = FrameSize(128, 128)
    plan = plan_within(B0, size, 100_000)
    assert arena_bytes(Space(B0, size, plan)) <= 100_000
    assert plan.columns > 1
    with pytest.raises(RunError, match="at the least"):
        plan_within(B0, FrameSize(160, 160), 100_000)
    plan_within(B0, FrameSize(160, 160), 100_000, keep_c1=False)


@given(st.integers(0, 2**32 - 1))
def test_products_are_exact_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = Affine(rng.normal(size=(700, 9)).astype(np.float32), np.zeros(9, np.float32))
    grid = Grid(*(rng.uniform(low, high, 700).astype(np.float32) for low, high in ((1, 2), (0, 1))))
    linear = _Maker({}).linear(affine, grid, identity(9))
    weight = linear.weight.astype(np.int64)
    assert (weight == linear.weight).all()
    assert np.abs(weight).max() == 127
    values = rng.integers(-128, 128, (5, 700))
    out = np.empty((5, 9), np.float32)
    product(values.astype(np.float32), Linear(linear.weight, np.float32(1), np.float32(0)), out)
    np.testing.assert_array_equal(out, values @ weight)


def test_sums_that_might_not_be_exact_are_refused() -> None:
    affine = Affine(np.ones((1033, 1), np.float32), np.zeros(1, np.float32))
    with pytest.raises(RunError, match="may sum to"):
        _Maker({}).linear(affine, identity(1033), identity(1))


@given(low=st.floats(-1e3, 1e3), span=st.floats(1e-3, 1e3), where=st.floats(0, 1))
def test_a_grid_holds_zero_and_its_range(low: float, span: float, where: float) -> None:
    grid = grid_from_range(np.array([low]), np.array([low + span]))
    value = low + where * span
    stored = (np.array([[value]]) / grid.scale + grid.zero).astype(np.float32)
    Bytes().settle("", stored)
    back = float(stored[0, 0] * grid.scale[0] + grid.offset[0])
    assert abs(back - value) <= 1.01 * grid.scale[0]
    assert grid.zero[0] == np.rint(grid.zero[0])


def test_gelu_and_softmax_are_the_textbooks() -> None:
    x = np.linspace(-9, 9, 600, dtype=np.float32).reshape(20, 30)
    wanted = [0.5 * v * (1 + math.erf(v / 2**0.5)) for v in x.ravel().tolist()]
    found, work = x.copy(), np.empty((3, *x.shape), np.float32)
    gelu(found, *work)
    assert np.abs(found.ravel() - wanted).max() < 1e-6
    scores, stat, sums = x.copy(), np.empty((20, 1), np.float32), np.empty((20, 1), np.float32)
    softmax(scores, np.float32(0.5), stat, sums, whole=False)
    exact = torch.from_numpy(x * 0.5).double().softmax(1).numpy()
    assert np.abs(scores / sums - exact).max() < 1e-6


def test_foreign_frames_and_heads_are_refused() -> None:
    with pytest.raises(FrameError, match="uint8"):
        Executor(ready(True), SMALL).class_map(np.zeros((40, 40, 3), np.uint8), OUT)
    with pytest.raises(FrameError, match="reduced sequence is empty"):
        Executor(ready(True), FrameSize(16, 64))
    other = Segformer(replace(CONFIG, stage_activation=True))
    with pytest.raises(CheckpointError, match="ReLU"):
        network_from_model(other, MEAN, STD)


def test_scores_are_those_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (6, 4, 4))
    counts[:, 3] = counts[:, :, 3] = 0
    whole = ConfusionMatrix(4)
    whole.counts += counts.sum(0)
    assert whole.miou is not None
    assert miou_of(counts.sum(0)) == pytest.approx(100 * whole.miou)
    same = difference(counts, counts)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    better = counts + 100 * np.eye(4, dtype=np.int64)
    assert difference(better, counts).low > 0


def test_the_page_and_the_arithmetic_are_those_of_the_results(tmp_path: Path) -> None:
    data = json.loads((BENCHMARKS / "results" / "floor.json").read_text("utf-8"))
    text = (ROOT / "docs" / "small-memory.md").read_text("utf-8")
    for line in (*report.table(data), *report.budget_table(data)):
        assert line in text
    for one in data["points"]:
        size = FrameSize.parse(one["size"])
        for kind in ("keep", "again"):
            plan = Plan(**one[kind]["plan"])
            assert arena_bytes(Space(B0, size, plan)) == one[kind]["arena_bytes"]
    chart.write(data, BENCHMARKS / "results", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000


def test_no_two_sizes_in_the_chart_touch() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = json.loads((BENCHMARKS / "results" / "floor.json").read_text("utf-8"))
    figure = chart.drawn(data, chart.processes(BENCHMARKS / "results"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    sizes = {one["size"] for one in data["points"]}
    texts = [text for text in figure.axes[0].texts if text.get_text() in sizes]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert len(boxes) >= len(sizes) // 2
    assert {data["points"][0]["size"], data["points"][-1]["size"]} <= {t.get_text() for t in texts}
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
