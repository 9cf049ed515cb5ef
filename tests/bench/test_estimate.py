"""The estimate: the committed fit is the data's, the error is what leaving a device out gives."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench import estimate as module
from segformer_deploy.bench.cost import SHAPES
from segformer_deploy.bench.devices import all_devices, device_named
from segformer_deploy.bench.estimate import estimate, main, stored_fit
from segformer_deploy.bench.memory_model import builder_ratio, memory_of
from segformer_deploy.bench.published import Published, published_rows
from segformer_deploy.bench.roofline import NAMES, Task, side_of, time_of, work
from segformer_deploy.bench.roofline_fit import PRIORS, fit, fit_to_dict, leave_out, spread_of
from segformer_deploy.spec import FrameSize, Precision

ROOT = Path(__file__).resolve().parents[2]
SIZE = FrameSize(512, 512)
ROWS = published_rows()


def assert_close(a: Any, b: Any) -> None:
    """Equal but for the last digits of numbers, which another machine may round otherwise."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_close(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_close(one, other)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-4)
    else:
        assert a == b


def test_the_committed_fit_is_that_of_the_committed_data() -> None:
    assert_close(json.loads(json.dumps(fit_to_dict(ROWS))), stored_fit())


def test_each_device_left_out_is_met_within_1_8() -> None:
    """The goal: the median error on a device that the fit has not seen."""
    found = leave_out(ROWS, lambda row: row.device.core)
    assert float(np.median([one.error for one in found])) <= 1.8
    for group in ("jetson", "cpu-arm"):
        assert float(np.median([one.error for one in found if one.group == group])) <= 1.8
    assert stored_fit()["errors"]["all"]["median"] <= 1.8


def test_left_out_means_unseen() -> None:
    """Ten times slower rows of a design of cores change nothing of what is estimated for it."""
    for core, boards in (
        ("Cortex-A53", {"rpi-3b-plus", "rpi-zero-2w"}),
        ("sm_87", {"orin-nano-8gb", "agx-orin-64gb"}),
    ):
        slower = [
            replace(row, latency_ms=10 * row.latency_ms) if row.device.core == core else row
            for row in ROWS
        ]
        before, after = (
            {one["row"]: one for one in fit_to_dict(rows)["left_out_cores"]}
            for rows in (ROWS, slower)
        )
        left = [number for number, one in before.items() if one["without"] == core]
        assert {before[number]["board"] for number in left} == boards
        assert all(before[n]["estimate_ms"] == after[n]["estimate_ms"] for n in left)


def test_the_stated_error_is_no_smaller_than_with_one_board_left_out() -> None:
    """Other devices of the same cores would give a device away: 1.29x instead of 1.39x."""
    board, stated = spread_of(leave_out(ROWS, lambda row: row.device.board)), stored_fit()["errors"]
    assert board.median is not None
    assert stated["all"]["median"] > board.median
    assert (stated["all"]["boards"], stated["all"]["left_out"]) == (board.boards, 6)


def test_the_fit_finds_what_made_the_data() -> None:
    """Rows made by known parameters, each of a board of its own, bring these back."""
    true = {"compute": 0.3, "bandwidth": 0.4, "launch_us": 9.0, "fp32_gain": 1.2, "int8_gain": 1.4}
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    rows = [
        made(device, variant, side, precision, true)
        for device in ("orin-nano-8gb", "agx-orin-64gb", "t4", "l4", "a100", "rtx-3060")
        for variant in ("b0", "b3")
        for side in (256, 1024)
        for precision in precisions
    ]
    rows = [
        replace(row, device=replace(row.device, board=str(number)))
        for number, row in enumerate(rows)
    ]
    found = fit(rows).parameters["gpu"]
    for name, value in true.items():
        assert found[name] == pytest.approx(value, rel=0.25), name
        assert abs(math.log(found[name] / value)) <= abs(math.log(PRIORS["gpu"][name][0] / value))


def made(
    device: str, variant: str, side: int, precision: Precision, values: dict[str, float]
) -> Published:
    size, where = FrameSize(side, side), device_named(device)
    task = Task(variant, size, 19, precision, where, "tensorrt", "published")
    latency = time_of(task, values).total
    return Published(
        0, "made", variant, size, 19, precision, "tensorrt", where, latency, None, "", "", ""
    )  # fmt: skip


def test_other_guesses_would_not_change_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any prior moved by 1.5x either way: the median stays where the documentation says."""
    usual = {side: dict(values) for side, values in PRIORS.items()}
    medians = []
    for side, names in NAMES.items():
        rows = [row for row in ROWS if side_of(row.device) == side]
        for name, factor in product(names, (1.5, 1 / 1.5)):
            centre, width = usual[side][name]
            monkeypatch.setitem(PRIORS[side], name, (centre * factor, width))
            left_out = leave_out(rows, lambda row: row.device.core)
            monkeypatch.setitem(PRIORS[side], name, (centre, width))
            other = [
                one["error"]
                for one in stored_fit()["left_out_cores"]
                if one["row"] not in {row.row for row in rows}
            ]
            medians.append(float(np.median([*other, *(one.error for one in left_out)])))
    assert min(medians) > 1.28
    assert max(medians) < 1.5


def test_without_rows_the_priors_stand() -> None:
    empty = fit([]).parameters
    for side, names in NAMES.items():
        for name in names:
            assert empty[side][name] == pytest.approx(PRIORS[side][name][0])


def test_a_layer_takes_the_longer_of_its_two_times() -> None:
    """The sum over layers, written as a loop."""
    values = {"compute": 0.2, "bandwidth": 0.5, "launch_us": 5.0, "fp32_gain": 2, "int8_gain": 1.5}
    device = device_named("orin-nano-8gb")
    for precision, gain in (("fp32", 2.0), ("fp16", 1.0), ("int8", 1.5)):
        task = Task("b1", SIZE, 19, precision, device, "tensorrt")  # type: ignore[arg-type]
        peak = (1.28 if precision == "fp32" else 10.2) * 1e12 * 0.2 * gain
        seconds = 0.0
        for macs, moved in zip(*work(task), strict=True):
            seconds += max(2 * macs / peak, moved / (68.2e9 * 0.5)) + 5e-6
        assert time_of(task, values).total == pytest.approx(1000 * seconds)


def test_too_few_rows_state_no_error() -> None:
    cards, x86 = (estimate(device_named(n), "b0", SIZE, 150) for n in ("l4", "n100"))
    assert cards.range_ms is None
    assert cards.error.median is None
    assert cards.error.boards == 1
    assert cards.error_text.startswith("unknown: 5 published rows of 1 of the GPU cards")
    assert x86.error_text == "unknown: no published row of x86 CPUs can be used"
    assert x86.to_dict()["error"]["known"] is False
    assert spread_of([]).worst is None


def test_known_errors_are_stated() -> None:
    one = estimate(device_named("orin-nano-8gb"), "b0", SIZE, 150)
    data = one.to_dict()
    assert data["estimated"] is True
    errors = [o for o in stored_fit()["left_out_cores"] if o["group"] == "jetson"]
    assert data["error"]["median"] == pytest.approx(
        np.median([o["error"] for o in errors]), rel=1e-5
    )
    assert data["error"]["p90"] == pytest.approx(
        np.quantile([o["error"] for o in errors], 0.9), rel=1e-5
    )
    low, high = data["latency_ms"]["low"], data["latency_ms"]["high"]
    assert low * high == pytest.approx(data["latency_ms"]["estimate"] ** 2, rel=1e-3)
    assert "left out with all devices of the same cores: 2 designs" in one.error_text
    assert sum(data["bound_ms"].values()) == pytest.approx(data["latency_ms"]["estimate"], abs=1e-3)


def test_what_limits_an_estimate_is_noted() -> None:
    def notes(device: str, variant: str = "b0", precision: Precision | None = None) -> str:
        return " / ".join(estimate(device_named(device), variant, SIZE, 150, precision).notes)

    assert "extrapolated" in notes("h100")
    assert "extrapolated" in notes("jetson-t5000")
    assert "extrapolated" not in notes("orin-nano-8gb")
    assert "RECALL" in notes("rpi-zero-2w")
    assert "RECALL" in notes("jetson-t5000")
    for device in ("orin-nano-8gb", "rtx-4090", "h100", "jetson-t5000"):
        assert "TF32" in notes(device, precision="fp32")
    for device in ("t4", "xavier-nx", "agx-xavier", "jetson-tx2", "jetson-nano", "rpi-5"):
        assert "TF32" not in notes(device, precision="fp32")
    assert "no faster than fp16" in notes("jetson-nano", precision="int8")
    assert "no published row of x86 CPUs in fp32" in notes("n100")
    assert "not fit" in notes("rpi-zero-2w", "b5")
    assert "differ by 2.0x" in notes("rpi-4")
    assert "differ" not in notes("rpi-4", precision="int8").replace("different", "")
    assert "assumed" in notes("rpi-5")


def test_rows_of_the_very_device_are_shown() -> None:
    shown = estimate(device_named("orin-nano-8gb"), "b0", SIZE, 150).to_dict()["published"]
    assert [one["published_ms"] for one in shown] == [22.6924, 21.514]
    assert all(one["form"] == "published" for one in shown)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([device.slug for device in all_devices()]),
    st.sampled_from(sorted(SHAPES)),
    st.integers(64, 400),
    st.integers(64, 400),
)
def test_what_holds_for_every_estimate(slug: str, variant: str, height: int, width: int) -> None:
    device = device_named(slug)
    small = estimate(device, variant, FrameSize(height, width), 19)
    large = estimate(device, variant, FrameSize(2 * height, width), 19)
    published = estimate(device, variant, FrameSize(height, width), 19, form="published")
    assert 0 < small.time.total < large.time.total
    assert small.time.total < published.time.total
    assert small.memory.low <= small.memory.total <= small.memory.high
    assert small.memory.total < large.memory.total
    data = small.to_dict()
    assert json.loads(json.dumps(data)) == data


def test_builder_memory_is_what_was_recorded() -> None:
    recorded = json.loads((ROOT / "benchmarks/results/rtx-builds.json").read_text())
    text = (ROOT / "segformer_deploy/bench/data/builder_memory.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 36
    for row in rows:
        kind = "static" if row["height"] == "512" else "dynamic"
        found = recorded["builds"][f"{row['variant']} {row['precision']} {kind}"]
        assert int(row["activation_bytes"]) == found["activation_memory_bytes"]
        assert int(row["weights_bytes"]) == found["weights_memory_bytes"]
        assert int(row["classes"]) == recorded["classes"]


def test_memory_is_near_the_builders() -> None:
    for precision in ("fp32", "fp16", "int8"):
        ratio = builder_ratio(precision)
        assert ratio.cases == 12
        assert 0.8 < ratio.low <= ratio.mean <= ratio.high < 1.6
    # B0 FP16, 512x512: 22.0 MB of activations and 7.5 MB of weights by the builder.
    memory = memory_of(device_named("orin-nano-8gb"), "b0", SIZE, 150, "fp16")
    assert memory.total == pytest.approx(22.0e6 + 7.5e6, rel=0.1)
    # Published for that device, published form: 69 MB.
    old = memory_of(device_named("orin-nano-8gb"), "b0", SIZE, 35, "fp16", "published")
    assert old.low < 69e6 < old.high


def test_the_fit_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "FIT_FILE", str(tmp_path / "fit.json"))
    assert main(["--fit"]) == 0
    assert "21 rows of 8 boards" in capsys.readouterr().err
    assert_close(json.loads((tmp_path / "fit.json").read_text()), stored_fit())
    assert main([]) == 2


def test_figures_from_memory_do_not_carry_the_goal() -> None:
    """Without the devices of which a clock or bandwidth was not read in a source."""
    rows = [row for row in ROWS if not row.device.recalled]
    errors = [one.error for one in leave_out(rows, lambda row: row.device.core)]
    assert len(rows) == 15
    assert float(np.median(errors)) <= 1.8


def test_the_documentation_has_the_fits_figures() -> None:
    page = (ROOT / "docs/estimate.md").read_text()
    data = stored_fit()
    for one in data["left_out_cores"]:
        line = next(line for line in page.splitlines() if line.startswith(f"| {one['row']} |"))
        assert f"| {one['error']:.2f}x |" in line
    for error in data["errors"].values():
        if error["median"] is not None:
            assert f"{error['median']:.2f}x | {error['p90']:.2f}x | {error['worst']:.2f}x" in page
    for side, values in data["parameters"].items():
        for name, value in values.items():
            assert f"| {side} `{name}` | {value:.3g} |" in page
    board = leave_out(ROWS, lambda row: row.device.board)
    medians = [spread_of([one for one in board if one.group == g]).median
               for g in ("jetson", "cpu-arm")]  # fmt: skip
    medians.append(spread_of(board).median)
    told = re.search(
        r"only the device itself left out, the medians are ([\d.]+)x .*?([\d.]+)x .*?([\d.]+)x",
        page,
    )
    assert told is not None
    assert [float(figure) for figure in told.groups()] == [
        pytest.approx(median, abs=0.005) for median in medians
    ]
