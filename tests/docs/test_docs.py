"""The documentation is run: commands parse as typed, options are all there, Python blocks work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer

from segformer_deploy.cli.main import app
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.little import write_little

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def typed_commands() -> list[tuple[str, str]]:
    return [
        (page.name, line.strip())
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("segdeploy ")
    ]


@pytest.mark.parametrize(("page", "line"), typed_commands())
def test_each_command_line_parses(page: str, line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    assert name in COMMANDS, f"{page}: {line}"
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_option_is_on_its_page(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    for parameter in COMMANDS[name].params:
        spellings = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "option" and "--help" not in spellings:
            assert any(spelling in page for spelling in spellings), spellings


def test_each_command_has_a_page_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for name in COMMANDS:
        assert f"({name}.md)" in index


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = write_little(tmp_path / "little.onnx")
    build_engine(onnx, BuildOptions(output=tmp_path / "build" / "segformer-b0-fp32"))
    frame = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readmes_peers_are_the_measured_ones() -> None:
    text = (ROOT / "README.md").read_text()
    data = json.loads((ROOT / "benchmarks" / "results" / "peers-b0-512.json").read_text())
    for peer in data["results"]:
        ratio = peer["ratio_to_ours"]
        spread = f"{ratio['median']:.1f} ({ratio['p10']:.1f} to {ratio['p90']:.1f})"
        identical = f"{100 * peer['agreement']['identical']:.4f}"
        ratio_text = "1" if peer["ours"] else spread
        cells = (peer["name"], ratio_text, f"{peer['peak_mb']:.0f}", identical)
        assert "| " + " | ".join(cells) + " |" in text


def test_the_readmes_nineteen_classes_are_the_measured_ones() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    data = json.loads((ROOT / "benchmarks" / "results" / "peers-b0-19.json").read_text())
    times = {peer["letter"]: peer["ratio_to_ours"]["median"] for peer in data["results"]}
    task = data["task"]
    assert (task["classes"], task["network"], task["frame"]) == (19, [512, 1024], [512, 1024])
    found = f"{times['b']:.1f} times ours on ONNX Runtime and {times['d']:.1f} times on OpenVINO"
    assert found in text


def test_the_cpu_pages_figures_are_the_measured_ones() -> None:
    text = (ROOT / "docs" / "cpu.md").read_text()
    results = ROOT / "benchmarks" / "results"
    data = json.loads((results / "scaling-b0.json").read_text())
    growth, _, peak, *class_maps = (check["found"] for check in data["checks"])
    laws = {(fit["x"], fit["y"]): fit.get("exponent") for fit in data["fits"]}
    working = {one["name"]: one["memory_mib"]["frame"]["working"] for one in data["points"]}
    for row in (
        f"| {peak:.2f} times (512x512, 150 classes) |",
        f"512x1024 over 256x256 | {growth:.2f} |",
        f"multiply-accumulates^{laws['macs', 'network_ms']:.2f}",
        f"pixels^{max(laws['pixels', f'{what}_memory'] for what in ('network', 'frame')):.2f}; "
        f"{working['512x512-c150-b1-t2']:.0f} MiB at 512x512, "
        f"{working['1024x2048-c150-b1-t2']:.0f} MiB at 1024x2048 |",
        "{:.1f} % at 19 classes, {:.1f} % at 150".format(*(100 * one for one in class_maps)),
    ):
        assert row in text, row
    peers = json.loads((results / "peers-b0-512.json").read_text())["results"]
    times = {peer["letter"]: peer["ratio_to_ours"]["median"] for peer in peers}
    assert f"| `--backend onnxruntime` | {times['f']:.1f} |" in text
    assert f"| OpenVINO FP32, fixed size | {times['g']:.1f} |" in text


INT8_NAMES = {
    "ours": "segdeploy --int8, for a CPU",
    "ours-gpu-spelling": "segdeploy --int8, for a GPU",
    "onnxruntime-products": "ONNX Runtime static INT8, products alone",
    "onnxruntime-default": "ONNX Runtime static INT8, its default",
    "modelopt": "NVIDIA Model Optimizer, its default",
}


def test_the_readmes_int8_is_the_measured_one() -> None:
    text = (ROOT / "README.md").read_text()
    results = ROOT / "benchmarks" / "results"
    data = json.loads((results / "int8-peers.json").read_text())
    for one in data["results"]:
        score, share = one["score"], one["int8"]["share"]
        if one["name"] == "fp32":
            assert f"FP32 mIoU\n{score['miou']:.2f} %" in text
            continue
        cells = (INT8_NAMES[one["name"]], f"{score['agreement']:.2f}", f"{score['miou']:.2f}")
        more = (f"{100 * share:.1f}", f"{100 * one['share_of_fp32_bytes']:.0f}")
        assert "| " + " | ".join((*cells, *more)) + " |" in text
    speed = json.loads((results / "int8-speed.json").read_text())["backends"]
    ratios = {name: one["ratio"]["median"] for name, one in speed.items()}
    assert f"runs that INT8 {ratios['native']:.2f} times as fast as its own FP32" in text
    assert f"ONNX Runtime runs it {ratios['onnxruntime']:.2f} times as fast as its FP32" in text


def test_the_plans_are_the_built_ones() -> None:
    text = (ROOT / "docs" / "tensorrt.md").read_text()
    data = json.loads((ROOT / "benchmarks" / "results" / "rtx-builds.json").read_text())["builds"]
    for name in {build.rsplit(" ", 1)[0] for build in data if "," not in build}:
        one, span = data[f"{name} static"], data[f"{name} dynamic"]
        cells = (
            name.upper(),
            f"{one['peak_device_bytes'] / 1e6:.1f}",
            f"{span['peak_device_bytes'] / 1e6:.0f}",
            f"{one['weights_memory_bytes'] / 1e6:.1f}",
            f"{one['seconds']:.1f}",
            f"{span['seconds']:.1f}",
        )
        assert "| " + " | ".join(cells) + " |" in text, name
    for build in ("b0 fp16 static", "b0 fp16 static, 3 auxiliary streams"):
        sizes = [data[build][f"{what}_bytes"] for what in ("activation_memory", "peak_device")]
        assert " | ".join(f"{size / 1e6:.2f} MB" for size in sizes) in text, build
