"""The scaling benchmark: its fits, its plan, its figures on made-up samples, and a quick run."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import scaling  # noqa: E402
import scaling_chart  # noqa: E402
import scaling_checks  # noqa: E402
import scaling_child  # noqa: E402
import scaling_output  # noqa: E402
import scaling_report  # noqa: E402
from peers_runners.parent import Samples  # noqa: E402
from scaling_child import Job  # noqa: E402
from scaling_fit import power_law, straight_line  # noqa: E402
from scaling_options import read_options  # noqa: E402
from scaling_plan import Plan, Point, doubled, full_plan, quick_plan  # noqa: E402

from segformer_deploy.errors import InputError, OutputError, SegdeployError  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from tests.little import write_little  # noqa: E402

PRODUCT_MACS = 10**9
PRODUCT_MS = 10.0
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

Figure = Callable[[Point], float]


def macs_of(point: Point) -> int:
    """Made up: with a part that grows faster than pixels, as attention does."""
    return int(15_000 * point.pixels + 0.01 * point.size.pixels * point.pixels)


def usual_ms(point: Point) -> float:
    return macs_of(point) / 1e8 / point.threads + 0.01 * point.classes


def usual_mib(point: Point) -> float:
    return 5 + 1e-4 * point.pixels


def made_up(
    plan: Plan,
    ms: Figure = usual_ms,
    mib: Figure = usual_mib,
    *,
    rounds: tuple[float, ...] = (1.0, 1.1, 0.95),
    idle_s: float = 0.0,
    busy: float = 1.0,
    reset: bool = True,
) -> dict[str, Any]:
    """What the figures are of a machine that takes `ms` and `mib`; `rounds` slow all alike."""
    samples = {}
    for point in plan.points:
        network = [ms(point) * slow for slow in rounds]
        stages = [{"preprocess": 0.5, "infer": one, "class_map": 1.5} for one in network]
        samples[point.name] = Samples([one + 2 for one in network], stages, idle_s, 10.0)
    products = {
        threads: Samples(
            [PRODUCT_MS / threads * slow for slow in rounds],
            [{"cores_busy": busy * threads} for _ in rounds],
        )
        for threads in sorted({point.threads for point in plan.points})
    }

    def memory(point: Point, extra: float) -> list[dict[str, Any]]:
        return [
            {
                "start_mib": 50.0,
                "ready_mib": 65.0 + run,
                "peak_mib": 65.0 + run + extra + mib(point),
                "peak_was_reset": reset,
            }
            for run in range(3)
        ]

    return scaling_report.figures(
        plan,
        {point: macs_of(point) for point in plan.points},
        samples,
        products,
        PRODUCT_MACS,
        {p: {"network": memory(p, 0.0), "frame": memory(p, 1.0)} for p in plan.points},
    )


def whole(plan: Plan, **changes: Any) -> dict[str, Any]:
    """As `scaling.measure` gives it."""
    task = {
        "variant": "b0",
        "classes": plan.usual_classes,
        "threads": plan.threads,
        "size_of_classes_and_threads": str(plan.base),
        "size_of_batches": str(plan.small),
    }
    origin = {"task": task, "engine": "made up", "note": None, "machine": {"cpu": "a machine"}}
    return origin | made_up(plan, **changes)


def fit_of(data: dict[str, Any], x: str, y: str) -> dict[str, Any]:
    return next(fit for fit in data["fits"] if (fit["x"], fit["y"]) == (x, y))


numbers = st.floats(-1e3, 1e3, allow_subnormal=False)
positive = st.floats(1e-3, 1e6)


class TestFits:
    @given(
        x=st.lists(st.integers(-100, 100), min_size=3, max_size=12, unique=True),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_a_line_and_its_error_are_numpys(self, x: list[int], seed: int) -> None:
        y = np.random.default_rng(seed).normal(size=len(x))
        (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
        line = straight_line(x, y.tolist())
        assert line.slope == pytest.approx(slope, rel=1e-6, abs=1e-9)
        assert line.intercept == pytest.approx(intercept, rel=1e-6, abs=1e-9)
        assert line.slope_error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-6, abs=1e-9)
        assert line.points == len(x)

    def test_the_error_is_the_spread_of_slopes_over_many_measurements(self) -> None:
        # By simulation, which knows no formula: 2000 noisy lines of slope 3.
        rng = np.random.default_rng(1)
        x = [0.0, 1.0, 2.0, 5.0, 9.0, 10.0]
        lines = [
            straight_line(x, [3 * a + e for a, e in zip(x, rng.normal(size=6), strict=True)])
            for _ in range(2000)
        ]
        told = math.sqrt(statistics.fmean([(line.slope_error or 0) ** 2 for line in lines]))
        assert told == pytest.approx(statistics.stdev(line.slope for line in lines), rel=0.06)

    @given(factor=positive, exponent=st.floats(-3, 3), scale=st.floats(0.01, 100))
    def test_a_power_law_is_found_again_in_any_unit(
        self, factor: float, exponent: float, scale: float
    ) -> None:
        x = [1.0, 2.0, 7.0, 30.0]
        law = power_law(x, [factor * a**exponent for a in x])
        assert (law.factor, law.exponent) == pytest.approx((factor, exponent), rel=1e-6, abs=1e-9)
        assert law.exponent_error == pytest.approx(0, abs=1e-6)
        assert law.at(5.0) == pytest.approx(factor * 5**exponent)
        scaled = power_law([a * scale for a in x], [factor * a**exponent for a in x])
        assert scaled.exponent == pytest.approx(exponent, rel=1e-6, abs=1e-9)

    def test_two_points_have_a_slope_and_no_error(self) -> None:
        law = power_law([10, 40], [3, 24])
        assert law.exponent == pytest.approx(1.5)  # 8 times as much from 4 times as much
        assert law.exponent_error is None
        line = straight_line([1, 3], [5, 4])
        assert (line.slope, line.intercept, line.at(5)) == pytest.approx((-0.5, 5.5, 3.0))
        assert line.slope_error is None

    @pytest.mark.parametrize(
        ("x", "y", "expected"),
        [
            ([], [], "finite"),
            ([1, 2], [1], "as many"),
            ([1, 2], [1, math.nan], "finite"),
            ([0.1] * 3, [1, 2, 3], "two different x"),
            ([0.0, 1e-200], [1, 2], "two different x"),
        ],
    )
    def test_what_has_no_line_is_refused(
        self, x: list[float], y: list[float], expected: str
    ) -> None:
        with pytest.raises(InputError, match="nothing to fit") as caught:
            straight_line(x, y)
        assert expected in caught.value.expected
        assert caught.value.next_step

    @pytest.mark.parametrize("y", [[1.0, 0.0], [-1.0, 2.0], []])
    def test_no_power_law_without_a_logarithm(self, y: list[float]) -> None:
        with pytest.raises(InputError) as caught:
            power_law([1, 2], y) if y else power_law([], [])
        assert "above 0" in caught.value.expected


class TestPlan:
    @pytest.mark.parametrize("plan", [full_plan(2), full_plan(1), full_plan(6), quick_plan(8)])
    def test_each_point_once_under_a_name_of_its_own(self, plan: Plan) -> None:
        assert len({point.name for point in plan.points}) == len(plan.points)
        on_axes = [point for axis in plan.axes.values() for point in axis]
        assert set(on_axes) == set(plan.points)
        assert len(plan.points) < len(on_axes)  # where axes cross
        assert set(plan.pair) <= set(plan.axes["pixels"])

    @pytest.mark.parametrize("plan", [full_plan(4), quick_plan(2)])
    def test_along_an_axis_one_thing_changes(self, plan: Plan) -> None:
        for axis, points in plan.axes.items():
            fixed = {"pixels": "size", "classes": "classes", "batch": "batch"}.get(axis, axis)
            for name in {"size", "classes", "batch", "threads"} - {fixed}:
                assert len({getattr(point, name) for point in points}) == 1, (axis, name)
            assert len({getattr(point, fixed) for point in points}) == len(points)

    def test_the_full_plan_is_what_is_promised(self) -> None:
        plan = full_plan(2)
        sizes, classes = plan.axes["pixels"], plan.axes["classes"]
        assert (str(sizes[0].size), str(sizes[-1].size)) == ("256x256", "1024x2048")
        assert (classes[0].classes, classes[-1].classes) == (2, 256)
        assert [str(size) for size in plan.compared] == ["256x256", "512x1024"]
        assert [point.threads for point in plan.axes["threads"]] == [1, 2]
        assert len(plan.points) == 15

    def test_pixels_are_the_whole_batchs(self) -> None:
        assert Point(FrameSize(3, 5), 2, 4, 1).pixels == 60

    @given(st.integers(1, 300))
    def test_threads_double_up_to_all(self, threads: int) -> None:
        counts = doubled(threads)
        assert (counts[0], counts[-1]) == (1, threads)
        assert all(a < b <= 2 * a for a, b in pairwise(counts))


class TestFigures:
    def test_a_point_against_counting_by_hand(self) -> None:
        point = Point(FrameSize(10, 10), 2, 1, 1)
        stages = [{"preprocess": 1.0, "infer": ms, "class_map": 2.0} for ms in (20, 40, 30)]
        samples = Samples([23.0, 43.0, 33.0], stages, idle_cpu_s=0.1, idle_wall_s=10)
        product = Samples([10.0, 10.0, 30.0], [])
        runs = [{"start_mib": 1.0, "ready_mib": 3.0, "peak_mib": 3.0 + n} for n in (5, 9, 6)]
        found = scaling_report.point_result(
            point, 2 * 10**9, samples, product, 10**9, {"network": runs, "frame": runs}
        )
        assert found["network_ms"] == {"median": 30, "p25": 25, "p75": 35}
        assert found["frame_ms"]["median"] == 33
        assert found["ms_per_gmac"] == pytest.approx(15)
        # Product over network per MAC and round: 10/10, 10/20, 30/15.
        assert found["share_of_product"]["median"] == pytest.approx(1)
        assert found["memory_mib"]["frame"] == {"engine": 2, "working": 6, "peak": 9}
        assert found["stages_ms"] == {"preprocess": 1, "network": 30, "class_map": 2}
        assert found["samples"]["network_ms"] == [20, 40, 30]
        assert found["idle_share"] == pytest.approx(0.01)

    def test_the_product_is_the_machines_peak(self) -> None:
        single, double = made_up(full_plan(2))["product"]
        assert (single["threads"], double["threads"]) == (1, 2)
        assert single["gmac_per_s"] == pytest.approx(100)
        assert double["gmac_per_s"] == pytest.approx(200)
        assert double["cores_busy"] == 2

    def test_exponents_are_those_that_were_put_in(self) -> None:
        data = made_up(
            full_plan(2),
            ms=lambda point: 1e-4 * point.pixels**1.2,
            mib=lambda point: 1e-3 * point.pixels**0.7,
        )
        time_law, memory = (fit_of(data, "pixels", f"network_{y}") for y in ("ms", "memory"))
        assert time_law["exponent"] == pytest.approx(1.2)
        assert time_law["exponent_error"] == pytest.approx(0, abs=1e-6)
        assert memory["exponent"] == pytest.approx(0.7)
        assert memory["text"] == "0.70 ± 0.00"
        # A MiB more of each frame bends its law down.
        assert fit_of(data, "pixels", "frame_memory")["exponent"] < 0.7
        assert fit_of(data, "batch", "network_ms")["exponent"] == pytest.approx(1.2)

    def test_time_as_macs_has_the_exponent_one(self) -> None:
        data = made_up(full_plan(2), ms=lambda point: macs_of(point) / 1e8)
        law = fit_of(data, "macs", "network_ms")
        assert law["exponent"] == pytest.approx(1)
        assert law["points"] == 7

    def test_a_class_costs_its_slope(self) -> None:
        data = made_up(full_plan(2), ms=lambda point: 5 + 0.25 * point.classes)
        law = fit_of(data, "classes", "network_ms")
        assert (law["slope"], law["intercept"]) == pytest.approx((0.25, 5))
        assert law["text"] == "0.250 ± 0.000 ms"

    def test_speed_up_is_against_one_thread(self) -> None:
        data = made_up(full_plan(4), ms=lambda point: 100 / point.threads)
        assert [one["threads"] for one in data["speed_up"]] == [1, 2, 4]
        assert [one["network"]["median"] for one in data["speed_up"]] == pytest.approx([1, 2, 4])
        # 102 over 27: what does not run in threads counts in the frame.
        assert data["speed_up"][-1]["frame"]["median"] == pytest.approx(102 / 27)

    def test_one_thread_is_an_axis_too(self) -> None:
        assert [one["threads"] for one in made_up(full_plan(1))["speed_up"]] == [1]

    def test_everything_is_json(self) -> None:
        data = made_up(full_plan(2))
        assert json.loads(json.dumps(data, allow_nan=False)) == data


class TestChecks:
    def check(self, number: int, **changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = made_up(full_plan(2), **changes)["checks"][number]
        return found

    @pytest.mark.parametrize(("growth", "met"), [(0.8, True), (1.24, True), (1.26, False)])
    def test_time_per_mac(self, growth: float, met: bool) -> None:
        def ms(point: Point) -> float:
            # In between as it may be: only the two are compared.
            grown = {(256, 256): 1.0, (512, 1024): growth}
            side = (point.size.height, point.size.width)
            return macs_of(point) / 1e8 * grown.get(side, 3.0)

        check = self.check(0, ms=ms)
        assert check["found"] == pytest.approx(growth)
        assert check["met"] is met
        assert check["text"].startswith("time per MAC, 512x1024 over 256x256: ")
        assert (": met (" in check["text"]) is met
        assert (": missed (" in check["text"]) is not met

    def test_a_slow_round_of_the_machine_drops_out(self) -> None:
        plain, slow = (self.check(0, rounds=r) for r in ((1.0, 1.0, 1.0), (1.0, 50.0, 7.0)))
        assert slow["found"] == pytest.approx(plain["found"])

    @pytest.mark.parametrize(("exponent", "met"), [(0.9, True), (1.02, False), (1.5, False)])
    def test_memory(self, exponent: float, met: bool) -> None:
        check = self.check(1, mib=lambda point: 1e-3 * point.pixels**exponent)
        assert check["found"] == pytest.approx(exponent, abs=1e-6)
        assert check["met"] is met

    def test_the_worse_of_network_and_frame_counts(self) -> None:
        # The frame takes 1 MiB more, so that here the network's law is the steeper ...
        steeper = self.check(1, mib=lambda point: 1e-5 * point.pixels)
        assert steeper["found"] == pytest.approx(1)
        assert "network 1.00 ± 0.00, frame 0." in steeper["detail"]

    @pytest.mark.parametrize(("times", "met"), [(1.3, True), (1.59, True), (1.61, False)])
    def test_the_peak(self, times: float, met: bool) -> None:
        # Made-up products run at 100 GMAC/s and thread.
        check = self.check(2, ms=lambda point: times * macs_of(point) / 1e8 / point.threads)
        assert check["found"] == pytest.approx(times)
        assert check["met"] is met
        assert check["text"].startswith("network at 512x512, 150 classes, ")

    @pytest.mark.parametrize(("number", "classes", "limit"), [(3, 19, 0.03), (4, 150, 0.08)])
    def test_the_share_of_the_class_map(self, number: int, classes: int, limit: float) -> None:
        for share, met in ((limit - 0.002, True), (limit + 0.002, False)):
            # A made-up frame takes 2 ms more than its network, 1.5 of them for the class map.
            check = self.check(number, ms=lambda _, share=share: 1.5 / share - 2)
            assert check["found"] == pytest.approx(share)
            assert check["met"] is met
            assert f"512x512, {classes} classes" in check["text"]

    def test_a_limit_reached_is_met(self) -> None:
        assert scaling_checks.Check("x", 1.25, 1.25, "").met
        assert not scaling_checks.Check("x", 1.25, math.nan, "").met


class TestWarnings:
    def test_a_quiet_measurement_has_none(self) -> None:
        assert made_up(full_plan(2))["warnings"] == []

    def test_what_makes_the_figures_doubtful_is_said(self) -> None:
        plan = full_plan(2)
        awake = made_up(plan, idle_s=0.5)["warnings"]
        assert len(awake) == len(plan.points)
        assert all("5.0 % of a core" in one and "--pause" in one for one in awake)
        noisy = made_up(plan, rounds=(1.0, 1.0, 2.0, 2.0))["warnings"]
        assert "the third quartile is 2.00 times the first" in noisy[0]
        loaded = made_up(plan, reset=False)["warnings"]
        assert all("includes loading the engine" in one for one in loaded)
        idle = made_up(plan, busy=0.6)["warnings"]
        assert "product of 2 threads kept 1.20 cores busy" in idle[1]
        assert [len(one) for one in (noisy, loaded, idle)] == [15, 15, 2]


class TestOutput:
    def test_tables_show_every_point_law_and_check(self) -> None:
        data = whole(full_plan(2), idle_s=0.5)
        text = scaling_output.tables(data)
        for point in data["points"]:
            assert f"\n{point['name']} " in text
        for part in (*(check["text"] for check in data["checks"]), "100.0 GMAC/s"):
            assert part in text
        exponent = fit_of(data, "pixels", "frame_ms")["text"]
        assert f"frame time grows as pixels^{exponent} (pixels, 7 points)" in text
        assert "2 threads over one: network 1.9" in text
        assert "1 threads over one" not in text
        assert "warning: 256x256-c150-b1-t2 used 5.0 %" in text

    @pytest.mark.parametrize("threads", [1, 2, 64])
    def test_files(self, threads: int, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        data = whole(full_plan(threads))
        scaling_output.write(data, tmp_path / "new" / "a.json", tmp_path / "new" / "a.png")
        assert json.loads((tmp_path / "new" / "a.json").read_text()) == data
        assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
        assert len(list((tmp_path / "new").iterdir())) == 2

    def test_none_writes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        scaling_output.write(whole(quick_plan(2)), None, None)
        assert not list(tmp_path.iterdir())

    def test_an_interrupted_chart_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figure = pytest.importorskip("matplotlib.figure").Figure

        def cut_off(_: Any, path: Path, **__: Any) -> None:
            path.write_bytes(b"half a pic")
            raise KeyboardInterrupt

        monkeypatch.setattr(figure, "savefig", cut_off)
        (tmp_path / "a.png").write_bytes(b"the old one")
        with pytest.raises(KeyboardInterrupt):
            scaling_chart.write(whole(quick_plan(2)), tmp_path / "a.png")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]

    @pytest.mark.parametrize("threads", [1, 2, 64])
    def test_labels_do_not_touch(self, threads: int) -> None:
        matplotlib = pytest.importorskip("matplotlib")
        with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
            figure = scaling_chart.drawn(whole(full_plan(threads)))
            figure.canvas.draw()
            for axes in figure.axes:
                boxes = [
                    label.get_window_extent()
                    for label in axes.get_xticklabels()
                    if axes.xaxis.get_visible() and label.get_text()
                ]
                assert boxes or not axes.xaxis.get_visible()
                assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), axes.get_title(loc="left")

    def test_the_chart_names_sizes_but_not_two_in_one_place(self) -> None:
        pytest.importorskip("matplotlib")
        axes = scaling_chart.drawn(whole(full_plan(2))).axes[0]
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["256x256", "384x384", "512x512", "512x1024", "1024x1024", "1024x2048"]


class TestOptions:
    def test_defaults(self) -> None:
        options = read_options([], "")
        assert (options.rounds, options.memory_runs, options.warm_up) == (25, 3, 1)
        assert options.output == BENCHMARKS / "results" / "scaling-b0.json"
        assert options.chart == BENCHMARKS.parent / "docs" / "scaling.png"
        assert read_options(["--variant", "b2"], "").output.name == "scaling-b2.json"
        assert read_options(["--no-chart"], "").chart is None

    def test_quick_keeps_only_what_is_named(self) -> None:
        options = read_options(["--quick"], "")
        assert (options.rounds, options.memory_runs) == (3, 1)
        assert options.output is options.chart is None
        named = read_options(["--quick", "--output", "a.json", "--rounds", "7"], "")
        assert (str(named.output), named.rounds) == ("a.json", 7)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (["--rounds", "0"], "'0' is not a whole number of 1 or more"),
            (["--warm-up", "-1"], "warm-up"),
            (["--memory-runs", "two"], "'two' is not a whole number"),
            (["--pause", "nan"], "'nan' is no number of milliseconds"),
            (["--pause", "-1"], "pause"),
            (["--variant", "b6"], "b6"),
            (["--backend", "cuda"], "onnxruntime"),
            (["--chart", "a.png", "--no-chart"], "exclude each other"),
        ],
    )
    def test_wrong_ones(
        self, wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            read_options(wrong, "")
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


class TestChild:
    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        frame = np.random.default_rng(0).integers(0, 256, (640, 960, 3), np.uint8)
        np.save(tmp_path / "frame.npy", frame)
        onnx = write_little(tmp_path / "little.onnx")
        # The little network is not one that the native backend knows.
        return Job("time", 1, str(onnx), str(tmp_path / "frame.npy"), 2, "onnxruntime")

    def test_a_turn_times_the_second_of_two_frames(self, job: Job) -> None:
        timer = scaling_child.PointTimer(job)
        turn = timer.turn()
        assert set(turn["stages"]) == {"preprocess", "infer", "class_map"}
        assert sum(turn["stages"].values()) == pytest.approx(turn["ms"], rel=0.2, abs=1)
        assert "onnx" in timer.hello["engine"].lower()

    def test_what_comes_first_is_not_timed(self) -> None:
        waits = [0.2, 0.01]
        assert 10 <= scaling_child._second_call(lambda: time.sleep(waits.pop(0))) < 150
        assert waits == []

    def test_the_network_gets_rgb_at_the_frames_size(self, job: Job) -> None:
        images, frames = job.images(), job.frames()
        assert images.shape == (2, 640, 960, 3)
        np.testing.assert_array_equal(images[1, ..., 0], frames[1][..., 2])
        assert not np.may_share_memory(*frames)

    @needs_proc
    @pytest.mark.parametrize("purpose", ["network-memory", "frame-memory"])
    def test_memory_grows_from_start_to_peak(self, job: Job, purpose: Any) -> None:
        found = scaling_child.measure_memory(Job(purpose, *list(vars(job).values())[1:]))
        assert 0 < found["start_mib"] < found["peak_mib"]
        # Two frames of 640x960 as floats are 14 MiB.
        assert 10 < found["peak_mib"] - found["ready_mib"] < 200

    @needs_proc
    def test_memory_that_does_not_show_is_an_error(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scaling_child, "peak_rss_mib", lambda: 1.0)
        with pytest.raises(SegdeployError, match="no memory that shows") as caught:
            scaling_child.measure_memory(Job("frame-memory", *list(vars(job).values())[1:]))
        assert caught.value.next_step == "measure larger frames"

    def test_a_system_that_tells_no_memory_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scaling_child, "current_rss_mib", lambda: None)
        with pytest.raises(SegdeployError) as caught:
            scaling_child._settled_mib()
        assert caught.value.next_step == "measure on Linux"

    def test_the_product_says_how_many_cores_came(self) -> None:
        turn = scaling_child.ProductTimer(Job("product", 1, side=256)).turn()
        assert turn["ms"] > 0
        assert 0 < turn["stages"]["cores_busy"] < (os.cpu_count() or 1) + 1


class TestCommand:
    def test_an_error_is_one_json_object(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(_: Any) -> Any:
            raise SegdeployError("found", "expected", "next")

        monkeypatch.setattr(scaling, "measure", fail)
        assert scaling.main(["--json"]) == 1
        out, err = capsys.readouterr()
        assert json.loads(out)["error"]["next"] == "next"
        assert "next: next" in err
        assert scaling.main([]) == 1
        assert capsys.readouterr().out == ""

    def test_figures_are_shown_even_where_they_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(scaling, "measure", lambda _: whole(full_plan(2)))
        (tmp_path / "file").touch()
        arguments = ["--no-chart", "--json", "--output", str(tmp_path / "file" / "a.json")]
        assert scaling.main(arguments) == 1
        out, err = capsys.readouterr()
        assert json.loads(out)["error"]["kind"] == OutputError.__name__
        assert "time per MAC" in err

    def test_points_that_do_not_fit_in_memory_are_refused(self) -> None:
        points = full_plan(2).points[:2]
        runs = {"network": [], "frame": [{"peak_mib": 300.0}, {"peak_mib": 400.0}]}
        memory = dict.fromkeys(points, runs)
        scaling.check_room(memory, [800.0, None])
        scaling.check_room(memory, [None, None])
        with pytest.raises(SegdeployError, match="2 points at once take 800 MiB of 799") as caught:
            scaling.check_room(memory, [2000.0, 799.0])
        assert "--backend" in caught.value.next_step

    @pytest.mark.parametrize("error", [SegdeployError("x"), KeyboardInterrupt(), OSError()])
    def test_the_work_folder_goes(
        self, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(type(error)), scaling._work_folder() as folder:
            assert folder.parent == tmp_path
            (folder / "2.onnx").touch()
            raise error
        assert not list(tmp_path.iterdir())

    def test_a_log_that_an_error_names_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(SegdeployError), scaling._work_folder() as folder:
            for name in ("2.onnx", "a.log", "b.log"):
                (folder / name).touch()
            raise SegdeployError("died", "", f"read its messages in {folder / 'b.log'}")
        assert [path.name for path in folder.iterdir()] == ["b.log"]


def started(arguments: list[str], temporary: Path, out: Any) -> subprocess.Popen[str]:
    temporary.mkdir()
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--quick", *arguments]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(
        command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


@needs_proc
class TestRun:
    def test_quick_measures_all_and_leaves_one_object(self, tmp_path: Path) -> None:
        file = tmp_path / "out" / "quick.json"
        arguments = ["--json", "--rounds", "3", "--output", str(file)]
        process = started(arguments, tmp_path / "tmp", subprocess.PIPE)
        out, err = process.communicate()
        assert process.returncode == 0, err
        data = json.loads(out)
        assert data == json.loads(file.read_text())
        assert [path.name for path in file.parent.iterdir()] == ["quick.json"]
        assert not list((tmp_path / "tmp").glob("segdeploy*"))
        assert "round 4 of 4" in err
        assert "time per MAC" in err

        plan = quick_plan(scaling.usable_cores())
        assert [point["name"] for point in data["points"]] == [p.name for p in plan.points]
        assert data["task"]["quick"] is True
        for point in data["points"]:
            samples = point["samples"]
            assert len(samples["network_ms"]) == len(samples["frame_ms"]) == 3
            for network, frame in zip(samples["network_ms"], samples["frame_ms"], strict=True):
                assert 0 < network < frame
            for what in ("network", "frame"):
                (run,) = samples["memory"][what]
                assert run["start_mib"] < run["ready_mib"] < run["peak_mib"]
        macs = {point["name"]: point["macs"] for point in data["points"]}
        single, double = (point.name for point in plan.axes["batch"])
        assert macs[double] == 2 * macs[single]

    def test_ctrl_c_leaves_nothing(self, tmp_path: Path) -> None:
        file = tmp_path / "out" / "quick.json"
        arguments = ["--json", "--rounds", "100000", "--memory-runs", "9"]
        with (tmp_path / "stdout").open("w") as out:
            process = started([*arguments, "--output", str(file)], tmp_path / "tmp", out)
            assert process.stderr is not None
            for line in process.stderr:
                if "exported network 2 of 2" in line:
                    break
            time.sleep(1)  # until a child measures its memory
            # As a terminal does: to all of the group, the child that runs just now too.
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(timeout=30) == 130
        assert rest.splitlines()[-1] == "interrupted"
        assert "Traceback" not in rest
        assert (tmp_path / "stdout").read_text() == ""
        assert not file.parent.exists()
        assert not list((tmp_path / "tmp").glob("segdeploy*"))
        with pytest.raises(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, 0)
