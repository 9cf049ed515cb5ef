"""What the measurement leaves behind: a table, a JSON file with the raw samples, a chart."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

STAGE_LABELS = (("preprocess", "resize"), ("infer", "network"), ("class_map", "class map"))
GREYS = ("#c3c8d0", "#98a1ad", "#6c7683")
BLUES = ("#9cc3ec", "#3f86d0", "#1d5795")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, instruction sets, memory, system, load: what a number depends on."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            facts.setdefault("processor", value.strip())
        if key.strip() in ("flags", "Features"):
            wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
            facts.setdefault("instructions", [f for f in wanted if f in value.split()])
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            facts["memory_mb"] = round(int(line.split()[1]) * 1024 / 1e6)
    governor = _lines("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    facts["governor"] = governor[0].strip() if governor else None
    return facts


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def table(results: list[dict[str, Any]]) -> str:
    """One row per peer, for a terminal of about 120 columns."""
    head = (
        f"{'':2} {'peer':<35} {'median':>8} {'p10..p90':>15} {'x ours (p10..p90)':>20} "
        f"{'network':>8} {'peak':>8} {'identical':>10} {'exempt':>8} {'viol.':>6}"
    )
    return "\n".join([head, *(_row(result) for result in results)])


def _row(result: dict[str, Any]) -> str:
    ms, ratio, agreement = result["ms"], result["ratio_to_ours"], result["agreement"]
    between = f"{ms['p10']:.1f}..{ms['p90']:.1f}"
    times = f"{ratio['median']:.2f} ({ratio['p10']:.2f}..{ratio['p90']:.2f})" if ratio else "-"
    peak = f"{result['peak_mb']:.0f} MB" if result["peak_mb"] else "-"
    share = "in graph" if result["class_map_in_graph"] else f"{100 * result['infer_share']:.0f} %"
    same = f"{100 * agreement['identical']:.4f}" if agreement else "-"
    exempt = f"{100 * agreement['exempt']:.3f} %" if agreement and agreement["margin"] else "-"
    wrong = f"{agreement['violations']}" if agreement and agreement["margin"] else "-"
    return (
        f"{result['letter']:2} {result['name']:<35} {ms['median']:>5.1f} ms {between:>15} "
        f"{times:>20} {share:>8} {peak:>8} {same:>10} {exempt:>8} {wrong:>6}"
    )


def chart(data: dict[str, Any], path: Path) -> None:
    """Horizontal bars of the median, split by stage, with each peer's ratio to ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    results = sorted(data["results"], key=lambda result: -float(result["ms"]["median"]))
    pyplot.rcParams.update({"font.family": "DejaVu Sans", "font.size": 11})
    figure, axes = pyplot.subplots(figsize=(9, 1.3 + 0.62 * len(results)), dpi=160)
    longest = max(result["ms"]["median"] for result in results)
    for row, result in enumerate(results):
        _bar(axes, row, result, longest)
    axes.set_yticks(range(len(results)), [result["name"] for result in results])
    for label, result in zip(axes.get_yticklabels(), results, strict=True):
        label.set_fontweight("bold" if result["ours"] else "normal")
    axes.set_xlim(0, longest * 1.42)
    axes.set_xlabel("milliseconds per frame, median (shorter is faster)", color="#4a525c")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c3c8d0")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color="#c3c8d0", labelcolor="#4a525c")
    # From the picture's left edge: above the bars alone there is no room for the sentence.
    figure.text(0.012, 0.985, _title(data), fontsize=11.5, va="top", color="#20262d")
    handles = [
        Patch(color=grey, label=label) for grey, (_, label) in zip(GREYS, STAGE_LABELS, strict=True)
    ]
    axes.legend(
        handles=handles, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.985),
        fontsize=9.5, handlelength=1, columnspacing=1.4, borderpad=0,
    )  # fmt: skip
    height = float(figure.get_size_inches()[1])
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.32 / height))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _bar(axes: Any, row: int, result: dict[str, Any], longest: float) -> None:
    median = result["ms"]["median"]
    medians = [result["stages_ms"][name] for name, _ in STAGE_LABELS]
    # Medians of parts do not add up to the median of the whole: show their shares of it.
    scale = median / sum(medians)
    left = 0.0
    for colour, part in zip(BLUES if result["ours"] else GREYS, medians, strict=True):
        axes.barh(row, part * scale, left=left, height=0.62, color=colour, linewidth=0)
        left += part * scale
    label = f"{median:.0f} ms"
    if result["ratio_to_ours"] and not result["ours"]:
        label += f"  ({result['ratio_to_ours']['median']:.1f}x ours)"
    axes.text(
        left + longest * 0.012, row, label, va="center",
        fontweight="bold" if result["ours"] else "normal", color="#20262d",
    )  # fmt: skip


def _title(data: dict[str, Any]) -> str:
    task = data["task"]
    frame, network = ("x".join(str(side) for side in task[key]) for key in ("frame", "network"))
    return (
        f"SegFormer-B0, {task['classes']} classes, {network}: "
        f"{frame} frame to {frame} class map, {task['threads']} CPU threads, FP32"
    )
