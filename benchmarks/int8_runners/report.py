"""The tables for reading, and what the numbers depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers_runners.report import machine_facts

from int8_runners.child import versions_of
from segformer_deploy.bench.latency import NOISY_RATIO
from segformer_deploy.cli.common import say, table

SCORE_COLUMNS = ["file", "mIoU %", "drop", "agreement %", "boundary F %"]
FILE_COLUMNS = ["file", "INT8 MACs %", "MB", "of FP32"]
TIME_COLUMNS = ["ms", "speed-up"]


def facts() -> dict[str, Any]:
    """Machine, vector instructions and library versions."""
    return {
        "machine": machine_facts() | {"vectors": vector_flags()},
        "versions": versions_of("segformer-deploy", "onnxruntime", "onnx", "numpy"),
    }


def vector_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The processor's flags for vectors, sorted; empty where the system does not tell.

    Whether VNNI is among them decides if ONNX Runtime's u8 x s8 products can saturate.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            wanted = ("avx", "amx", "fma", "asimd", "sve", "i8mm")
            return sorted(flag for flag in value.split() if flag.startswith(wanted))
    return []


def show(data: dict[str, Any]) -> None:
    """The tables on stderr, each within 80 columns, and every note once with its files."""
    results, task = data["results"], data["task"]
    height, width = task["network"]
    frames, calibration = task["evaluation_frames"], len(task["calibration_frames"])
    title = f"{frames} frames at {height}x{width}, ONNX Runtime on the CPU"
    if calibration:
        title += f" (tools calibrated on {calibration} frames)"
    table(title, SCORE_COLUMNS, score_rows(results, "score"))
    if any(result["reference"] for result in results):
        title = "the numbers that the files state, Q and DQ computed one by one"
        table(title, SCORE_COLUMNS, score_rows(results, "reference"))
    columns, title = FILE_COLUMNS, "the files"
    if task["timed_at"] is not None:
        height, width = task["timed_at"]
        title += f"; the network's time at {height}x{width}, {task['threads']} threads"
        columns = [*FILE_COLUMNS, *TIME_COLUMNS]
    table(title, columns, [row[: len(columns)] for row in file_rows(results)])
    for note in notes(results):
        say(f"note: {note}")


def score_rows(results: list[dict[str, Any]], which: str) -> list[list[str]]:
    """One row per file that was evaluated in that way (``score`` or ``reference``)."""
    return [
        [
            result["name"],
            _number(scored["miou"]),
            _number(scored["drop"]),
            _number(scored["agreement"], 3),
            _number(scored["mean_boundary_f"]),
        ]
        for result in results
        if (scored := result[which]) is not None
    ]


def file_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """INT8's share, bytes, and the median time with its ratio where there is one."""
    return [
        [
            result["name"],
            _number(100 * result["int8"]["share"], 1),
            _number(result["bytes"] / 1e6),
            f"{100 * result['share_of_fp32_bytes']:.0f} %",
            *_times(result["time"]),
        ]
        for result in results
    ]


def _times(time: dict[str, Any] | None) -> list[str]:
    if time is None:
        return ["-", "-"]
    return [_number(time["ms"]["median"], 1), _number(time["speed_up"]["median"])]


def notes(results: list[dict[str, Any]]) -> list[str]:
    """Each note once, led by the files it is about; the evaluation's are the same for all.

    One more where the times say that the machine was doing something else too.
    """
    about: dict[str, list[str]] = {}
    for result in results:
        for note in result["notes"]:
            about.setdefault(note, []).append(result["name"])
    of_files = [f"{', '.join(names)}: {note}" for note, names in about.items()]
    noisy = [
        result["name"]
        for result in results
        if (time := result["time"]) and time["ms"]["p90"] > NOISY_RATIO * time["ms"]["median"]
    ]
    if noisy:
        of_files.append(f"{', '.join(noisy)}: the times scatter; measure again on a quiet machine")
    return [*of_files, *results[0]["notes_of_evaluation"]]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
