"""Figures: what is drawn lies where the values are."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from segformer_deploy.bench.cost import network
from segformer_deploy.bench.cost_bytes import layer_bytes
from segformer_deploy.bench.limit import bytes_from_text
from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report.cases import case_from_bench, case_from_estimate
from segformer_deploy.bench.report.commands import bench_command, size_for_option
from segformer_deploy.bench.report.figures import (
    latency_figure,
    memory_figure,
    stage_figure,
)
from segformer_deploy.bench.report.model import Group, Other
from segformer_deploy.bench.report.roofline import peaks_of_group, roofline_of_group
from segformer_deploy.bench.report.roofline_figure import attainable, roofline_figure
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.svg import shortened
from segformer_deploy.spec import FrameSize
from tests.bench.report.given_results import MACHINE, bench, estimated

CASE = case_from_bench(bench(classes=19), "a.json")


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Row("a", 100.0, "100"), Row("b", 50.0, "50"), Row("c", None, "failed")]
    for drawn in plots.bars(rows, "Memory", "MiB"):
        one, two = numbers(r'width="([\d.]+)" height="14.0"', drawn)
        assert one == pytest.approx(2 * two, abs=0.2)
        assert "failed" in drawn


def test_whiskers_reach_from_p10_to_p90_on_the_axis() -> None:
    rows = [Row("a", 20.0, "20 ms", 10.0, 40.0)]
    wide, _ = plots.whiskers(rows, "Latency", "ms")
    ends = re.search(r'x1="([\d.]+)"[^>]*x2="([\d.]+)"[^>]*class="whisker"', wide)
    dot = numbers(r'cx="([\d.]+)"', wide)[0]
    assert ends is not None
    low, high = float(ends[1]), float(ends[2])
    # A linear axis from 0: a third of the whisker lies before the dot.
    assert (dot - low) / (high - low) == pytest.approx(1 / 3, abs=0.01)


def test_a_range_of_more_than_20_makes_a_logarithmic_axis_that_says_so() -> None:
    near = plots.whiskers([Row("a", 1.0, ""), Row("b", 19.0, "")], "x", "ms")
    far = plots.whiskers([Row("a", 1.0, ""), Row("b", 21.0, "")], "x", "ms")
    assert all("logarithmic" not in drawn for drawn in near)
    assert all("ms, logarithmic" in drawn for drawn in far)


def test_nothing_is_drawn_outside_the_picture() -> None:
    cases = [replace(CASE, p50=10.0**k, p10=None, p90=None, peak_mib=3.0**k) for k in range(-2, 5)]
    for figure in (latency_figure(cases), memory_figure(cases)):
        assert figure is not None
        for drawn, width in ((figure.wide, 900), (figure.narrow, 340)):
            assert all(0 <= x <= width for x in numbers(r' (?:x|cx|x1|x2)="([-\d.]+)"', drawn))


def test_a_limit_far_outside_does_not_flatten_the_bars() -> None:
    limit = {"bytes": 4096 << 20, "enforced": True, "survived": True}
    figure = memory_figure([case_from_bench(bench(limit=limit), "a.json")])
    assert figure is not None
    assert 'class="limit"' not in figure.wide
    assert figure.table.rows[0][2].text == "4096 MiB kept (enforced)"


def test_stages_far_apart_are_drawn_as_shares() -> None:
    slow = case_from_bench(bench(scale=20), "b.json")
    figure = stage_figure([CASE, slow])
    assert figure is not None
    assert "share of the stages, %" in figure.wide
    alone = stage_figure([CASE])
    assert alone is not None
    assert "milliseconds per frame" in alone.wide


def test_the_roofline_counts_what_the_cost_model_counts() -> None:
    found = roofline_of_group(Group(CASE.machine, (CASE,)))
    net = network("b0", FrameSize(512, 512), 19)
    moved = sum(
        one.total
        for layer, one in zip(net.layers, layer_bytes(net, "fp32"), strict=True)
        if layer.kind != "elementwise"
    )
    work = found.works[0]
    assert work.macs == net.macs
    assert work.intensity == pytest.approx(net.macs / moved)
    assert work.gmac_s == pytest.approx(net.macs / 9e-3 / 1e9)  # the infer stage: 9 ms
    figure = roofline_figure(found)
    assert figure is not None
    assert "peaks are not known" in figure.caption


def test_peaks_come_from_this_machine_first_and_the_table_is_not_called_measured() -> None:
    group = Group(CASE.machine, (CASE,))
    product = {"machine": MACHINE, "product": [{"gmac_per_s": 40.0}, {"gmac_per_s": 80.0}]}
    found = peaks_of_group(group, [Other("s.json", "scaling", product)])
    assert found.measured
    assert dict(found.gmac_s) == {"fp32": 80.0}
    elsewhere = {**product, "machine": {**MACHINE, "cpu": "Other"}}
    assert not peaks_of_group(group, [Other("s.json", "scaling", elsewhere)]).gmac_s
    far = case_from_estimate(estimated(device={"name": "orin-nano-8gb"}), "e.json")
    table = peaks_of_group(Group(far.machine, (far,)), ())
    assert not table.measured
    assert table.gmac_s["fp16"] == pytest.approx(10.2e3 / 2)  # half of 10.2 TFLOPS
    roofline = roofline_of_group(Group(far.machine, (far,)))
    most = attainable(roofline.works[0], roofline.peaks)
    assert most == pytest.approx(min(5100.0, roofline.works[0].intensity * 68.2))


def test_without_classes_there_is_a_sentence_instead_of_a_roofline() -> None:
    case = case_from_bench(bench(engine="nowhere/segformer-b0"), "a.json")
    found = roofline_of_group(Group(case.machine, (case,)))
    assert found.absent == "No roofline: the number of classes is not stated."
    assert roofline_figure(found) is None


def test_commands_are_quoted_for_a_shell() -> None:
    limit = {"bytes": 128 << 20, "enforced": True, "survived": True}
    case = case_from_bench(bench(engine="my build/b0;rm", limit=limit), "run/a b.json")
    assert bench_command(case) == (
        "segdeploy bench 'my build/b0;rm' --size 512x512 --frame 480x640 --threads 2 "
        "--backend native --runs 20 --warmup 3 --memory-limit 128M --json > 'a b.json'"
    )


def typed(**asked: Any) -> str:
    given = {
        "arena": True, "provider": "cpu", "device": "auto", "timed": False, "trust": False,
        "seconds": None, "runs": None, "size": None, "frame": None, "backend": "auto",
    }  # fmt: skip
    return bench_command(case_from_bench(bench(case={**given, **asked}), "a.json"))


def test_a_command_has_every_option_that_changes_figures() -> None:
    usual = "segdeploy bench build/segformer-b0-fp32 --threads 2 --backend native"
    tail = "--json > a.json"
    assert typed() == f"{usual} --runs 20 --warmup 3 {tail}"
    assert typed(arena=False, timed=True, trust=True) == (
        f"{usual} --runs 20 --warmup 3 --no-arena --timed --trust {tail}"
    )
    assert typed(provider="cuda", device="cpu") == (
        f"{usual} --provider cuda --device cpu --runs 20 --warmup 3 {tail}"
    )
    assert typed(seconds=2.5) == f"{usual} --seconds 2.5 --warmup 3 {tail}"
    assert typed(seconds=2, runs=7) == f"{usual} --runs 7 --seconds 2 --warmup 3 {tail}"
    assert typed(size="256x256", frame="64x96").startswith(
        "segdeploy bench build/segformer-b0-fp32 --size 256x256 --frame 64x96 "
    )


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"arena": False, "timed": True},
        {"seconds": 2.5},
        {"provider": "cuda", "device": "cpu", "size": "64x64"},
    ],
)
def test_a_command_asks_for_the_same_case(asked: dict[str, Any]) -> None:
    """Read back by the command line's own parser."""
    import click
    from typer.main import get_command

    from segformer_deploy.cli.main import app

    group = get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    parser = group.commands["bench"]  # type: ignore[attr-defined]
    words = shlex.split(typed(**asked).partition(" > ")[0])[2:]
    found = parser.make_context("bench", words).params
    for name, value in asked.items():
        assert found[name] == value, name


@pytest.mark.parametrize("size", [1, 1000, 512 << 10, (1 << 20) + 1, 96 << 20, (96 << 20) + 4096])
def test_a_limit_is_typed_as_it_was_set(size: int) -> None:
    text = size_for_option(size / (1 << 20))
    assert bytes_from_text(text) == size


VIDEO = {
    "source": "my film.mp4", "draw": False,
    "stages_ms": {"capture": {"p50": 3.0}, "infer": {"p50": 8.0}, "draw": {"p50": 2.0}},
}  # fmt: skip


def test_a_sources_frames_have_stages_from_capture_to_picture() -> None:
    asked = {"variant": "b0", "source": "my film.mp4", "draw": False}
    case = case_from_bench(bench(video=VIDEO, case=asked, classes=19), "a.json")
    assert case.stages == {"capture": 3.0, "infer": 8.0, "draw": 2.0}
    assert case.p50 == CASE.p50
    figure = stage_figure([case])
    assert figure is not None
    assert figure.table.columns[1:4] == ("capture ms", "infer ms", "draw ms")
    assert "--source 'my film.mp4' --size 512x512 --threads" in bench_command(case)
    assert " --no-draw " in bench_command(case)
    assert "--frame" not in bench_command(case)
    street = replace(case, video="test:seed=1", drawn=True)
    assert "--source test:seed=1 --size 512x512 --frame 480x640 --threads" in bench_command(street)


def test_long_labels_lose_their_middle() -> None:
    assert shortened("abcdefghijklmnop", 60) == "abc…mnop"
    assert shortened("abc", 60) == "abc"
