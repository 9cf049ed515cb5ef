"""The smallest memory limit under which SegFormer runs, enforced by the kernel, form by form.

::

    python benchmarks/smallest_limit.py                 # about fifteen minutes; B0, 150 classes
    python benchmarks/smallest_limit.py --onnx M.onnx --sizes 512x512 --forms native

Each run is a process of its own in a control group with a hard limit and no swap (Linux, root,
or groups of one's own). It runs a copy of this Python whose pages are dropped from the page
cache before (`fresh_copy`), so every page of Python, NumPy, the engine's library and the graph
is charged to the run itself. A limit survives where each of its runs gives the class maps that
the same form gives without a limit. Close to the smallest one, clean pages of libraries are
dropped and read again all the time: the latencies tell.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fresh_copy import copy_python
from limit_probe import Form, Probe, Prober

from segformer_deploy import __version__
from segformer_deploy.bench.memory import machine_facts
from segformer_deploy.bench.smallest import smallest_surviving
from segformer_deploy.cli.common import say
from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.engine.package import load_engine
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import write_text
from segformer_deploy.graph.metadata import fp32_spec
from segformer_deploy.graph.verify import enlarged_logits, noise_frames
from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.export import ExportOptions, export_onnx
from segformer_deploy.workflow.memory import least_graph

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "smallest-limit.json"
PLAIN, LEAN, NATIVE = "plain ONNX Runtime", "lean ONNX Runtime", "native"
FORMS = (PLAIN, LEAN, NATIVE)
PACKAGES = ("numpy", "onnxruntime", "segformer_deploy")
HEADLINE = 128
"""MiB: the limit that plain and lean are both held to."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--onnx", type=Path, help="an FP32 export; left out: B0, 150 classes")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "256x256", "128x128"])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--frames", type=int, default=4, help="of each run")
    parser.add_argument("--timeout", type=float, default=15, help="of each run, seconds")
    parser.add_argument("--folder", type=Path, help="on a disk, for 200 MB; /tmp may be memory")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            data = measure(options, Path(folder))
        write_text(options.output, json.dumps(data, indent=1) + "\n")
        print(table(data))
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All sizes and forms; the result as a JSON-ready dict."""
    path = options.onnx or folder / "b0.onnx"
    if options.onnx is None:
        asked = ExportOptions("b0", classes=150, random_weights=True, output=path)
        export_onnx(asked, say)
    facts, spec = machine_facts(), fp32_spec(onnx.load(str(path)))
    probe, outside = _prober(options, folder, path)
    sizes = [_size(FrameSize.parse(text), path, folder, options, probe) for text in options.sizes]
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "segdeploy": __version__,
        "machine": facts.to_dict(),
        "load_average_after": machine_facts().load_average,
        "task": {"variant": spec.variant, "classes": spec.classes, "weights": spec.weights.origin},
        "frames": options.frames,
        "timeout_seconds": options.timeout,
        "mapped_from_outside": outside,
        "sizes": sizes,
    }


def _prober(options: argparse.Namespace, folder: Path, onnx: Path) -> tuple[Prober, list[str]]:
    """The prober, and what its runs map that is not of their own copy."""
    size = FrameSize(64, 64)
    found: set[Path] = set()
    for attempt in ("first", "second"):  # the first tells which libraries are to be copied
        copy = copy_python(folder / attempt, PACKAGES, sorted(found))
        probe = Prober(copy, options.frames, options.timeout)
        for backend in ("onnxruntime", "native"):
            told = probe(Form(backend, onnx, size, backend), None, frames=1).told
            assert told is not None
            found |= {Path(one) for one in told["mapped"] if not one.startswith(str(folder))}
        found = {one for one in found if ".so" in one.name and not one.name.startswith("ld-")}
    told = probe(Form(PLAIN, onnx, size), None, frames=1).told or {}
    return probe, [Path(one).name for one in told["mapped"] if not one.startswith(str(folder))]


def _size(
    size: FrameSize, path: Path, folder: Path, options: argparse.Namespace, probe: Prober
) -> dict[str, Any]:
    lean = folder / f"{size}.onnx"
    lean.write_bytes(least_graph(onnx.load(str(path)), size).SerializeToString())
    paths = {PLAIN: path, LEAN: lean, NATIVE: path}
    backends = {NATIVE: "native"}
    forms = [
        Form(name, paths[name], size, backends.get(name, "onnxruntime"))
        for name in FORMS
        if name in options.forms
    ]
    return {
        "size": str(size),
        "masks": _compared(Form(PLAIN, path, size), forms, options.frames),
        "forms": [_searched(form, probe) for form in forms],
    }


def _searched(form: Form, probe: Prober) -> dict[str, Any]:
    """The smallest limit of one form, and what it takes and costs there."""
    free = probe(form, None)
    assert free.told is not None
    wrong: list[int] = []

    failed: set[int] = set()
    rows: dict[int, list[dict[str, Any]]] = {}

    def survives(mib: int) -> bool:
        if mib in failed:
            return False  # one failed run of a limit is enough
        found = probe(form, mib)
        rows.setdefault(mib, []).append(_row(found, mib))
        say(f"{form.size}, {form.name}: {mib} MiB: {found.outcome}")
        if found.told and found.told["checksums"] != free.told["checksums"]:
            wrong.append(mib)
        if found.outcome != "survived":
            failed.add(mib)
        return found.outcome == "survived"

    peak = math.ceil(free.told["peak_mib"])
    search = smallest_surviving(survives, peak, 2 * peak)
    least = search.smallest
    runs = {"no_limit": [_row(free, None)]}
    if least is not None:
        runs["at_limit"] = rows[least]
        above = math.ceil(1.25 * least)
        runs["25_percent_above"] = [_row(probe(form, above), above) for _ in range(2)]
    runs[f"at_{HEADLINE}"] = [_row(probe(form, HEADLINE), HEADLINE) for _ in range(2)]
    runs["no_limit"].append(_row(probe(form, None), None))
    return {
        "name": form.name,
        "peak_mib": free.told["peak_mib"],
        "anonymous_mib": free.told["anonymous_mib"],
        "of_files_mib": free.told["of_files_mib"],
        "smallest_limit": search.to_dict(),
        "other_masks_at": wrong,
        "runs": runs,
    }


def _row(found: Probe, mib: int | None) -> dict[str, Any]:
    told = found.told or {}
    ms = told.get("ms", [])
    return {
        "limit_mib": mib,
        "enforced": mib is not None,
        "how": found.how,
        "outcome": found.outcome,
        "group_mib": found.group_mib,
        "peak_mib": told.get("peak_mib"),
        "reads_from_disk": told.get("reads"),
        "first_ms": ms[0] if ms else None,
        "ms_median": statistics.median(ms[1:]) if len(ms) > 1 else None,
        "ms": ms,
    }


def _compared(plain: Form, forms: list[Form], frames: int) -> list[dict[str, Any]]:
    """How each form's class maps differ from plain ONNX Runtime's.

    Where logits differ by `difference` at most, a pixel whose best two classes are further
    apart than twice that has one class only: none of those may differ.
    """
    images = [noise_frames(1, plain.size, seed) for seed in range(frames)]
    expected = _logits(plain, images)
    rows = []
    for form in forms:
        found = _logits(form, images)
        difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        different = clear = 0
        for one, other in zip(found, expected, strict=True):
            maps = [class_map_from_logits(logits, plain.size) for logits in (one, other)]
            unlike = maps[0] != maps[1]
            different += int(np.count_nonzero(unlike))
            clear += int(np.count_nonzero(unlike & (_lead(other, plain.size) > 2 * difference)))
        rows.append(
            {
                "name": form.name,
                "pixels": frames * plain.size.height * plain.size.width,
                "different": different,
                "different_outside_of_ties": clear,
                "largest_logit_difference": difference,
                "largest_logit": max(float(np.abs(one).max()) for one in expected),
            }
        )
    return rows


def _logits(form: Form, images: list[Any]) -> list[Any]:
    engine = load_engine(form.path, EngineOptions(form.backend)).engine
    session = engine.session()
    found = [session.run({"image": image})["logits"][0].copy() for image in images]
    session.close()
    engine.close()
    return found


def _lead(logits: Any, size: FrameSize) -> Any:
    """[height, width]: by how much the best class leads the second."""
    rows = []
    for row in range(0, size.height, 64):  # all at once would be hundreds of megabytes
        best = np.sort(enlarged_logits(logits, size, slice(row, row + 64)), axis=0)
        rows.append(best[-1] - best[-2])
    return np.concatenate(rows)


def table(data: dict[str, Any]) -> str:
    """Markdown: one row per size and form."""
    lines = [
        "| size | form | smallest limit, MiB | VmHWM without | pixels that differ "
        "| ms without limit | ms at the limit | 25 % above | under 128 MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in data["sizes"]:
        different = {mask["name"]: mask["different"] for mask in one["masks"]}
        for form in one["forms"]:
            runs = form["runs"]
            ms = [_ms(runs.get(key, [])) for key in ("no_limit", "at_limit", "25_percent_above")]
            outcomes = sorted({run["outcome"] for run in runs[f"at_{HEADLINE}"]})
            lines.append(
                f"| {one['size']} | {form['name']} | {form['smallest_limit']['mib']} "
                f"| {form['peak_mib']:.1f} | {different[form['name']]} | {' | '.join(ms)} "
                f"| {', '.join(outcomes)} |"
            )
    return "\n".join(lines)


def _ms(runs: list[dict[str, Any]]) -> str:
    found = [run["ms_median"] for run in runs if run["ms_median"] is not None]
    return f"{statistics.median(found):.0f}" if found else "-"


if __name__ == "__main__":
    sys.exit(main())
