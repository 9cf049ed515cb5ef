"""What each step towards less memory buys and costs, and the peaks of plain and lean graphs.

::

    python benchmarks/lean_memory.py                    # about five minutes; B0, 150 classes
    python benchmarks/lean_memory.py --onnx M.onnx --rounds 2 --sizes 512x512
    python benchmarks/lean_memory.py --variants b0 b1 b2 b3 b4 b5   # one round each, 512x512

Every figure is the peak resident memory (VmHWM) of a whole process: Python, OpenCV, engine
library, weights, and frames to class maps by `Segmenter`. The forms take turns, each time in a
new process, so that whatever else the machine does hits all alike; a ratio of times is formed
within a round. Milliseconds are of one machine, whose page faults may cost more or less than
another's: what is given back after each use is taken anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segformer_deploy import Segmenter, __version__
from segformer_deploy.bench.memory import MachineFacts, machine_facts
from segformer_deploy.cli.common import say
from segformer_deploy.engine.ort import LEAN_KEY
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import write_text
from segformer_deploy.graph.chunk_attention import chunk_attention
from segformer_deploy.graph.chunk_ffn import chunk_ffn
from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.graph.live_set import live_set
from segformer_deploy.graph.metadata import fp32_spec, write_spec
from segformer_deploy.graph.strips_decoder import strip_decoder
from segformer_deploy.graph.strips_embed import strip_embedding
from segformer_deploy.graph.verify import noise_frames
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.export import ExportOptions, export_onnx
from segformer_deploy.workflow.memory import BLOCK, CUTS, LEAST, MIB, least_graph
from segformer_deploy.workflow.memory_trial import Peak, measure_peak

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "lean-memory.json"
VARIANTS = RESULT.with_name("lean-memory-variants.json")
ENCODER, DECODER = CUTS[-1]
STEPS: tuple[tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]], ...] = (
    ("Mix-FFN in chunks of rows", lambda model: chunk_ffn(model, ENCODER)),
    ("attention in chunks of queries", lambda model: chunk_attention(model, ENCODER)),
    ("first convolution in strips", lambda model: strip_embedding(model, ENCODER)),
    ("decoder in strips", lambda model: strip_decoder(model, DECODER)),
)
PLAIN, NATIVE = "as it is", "native, as it is"
ALL, IN_BLOCK = "all steps", "all steps, one block"


@dataclass(frozen=True)
class Form:
    """One way to run the network: what is measured in a process of its own."""

    name: str
    path: Path
    backend: str = "onnxruntime"
    arena: bool = True
    live_mib: float | None = None
    nodes: int | None = None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--onnx", type=Path, help="an FP32 export; left out: B0, 150 classes")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "256x256", "128x128"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=8, help="in each process")
    parser.add_argument("--variants", nargs="+", help="these at the first size instead of steps")
    parser.add_argument("--output", type=Path, help=f"left out: {RESULT.name}, or {VARIANTS.name}")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.variants:
                output, data = VARIANTS, measure_variants(options, Path(folder))
            else:
                output, data = RESULT, measure(options, Path(folder))
        write_text(options.output or output, json.dumps(data, indent=1) + "\n")
        print(table(data))
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All sizes; the result as a JSON-ready dict."""
    path = options.onnx or _exported("b0", folder)
    source, facts = onnx.load(str(path)), machine_facts()
    spec = fp32_spec(source)
    sizes = []
    for number, text in enumerate(options.sizes):
        size = FrameSize.parse(text)
        forms = _forms(source, path, size, folder, steps=number == 0)
        sizes.append(
            {
                "size": text,
                "same_masks": _compared(forms, size),
                "forms": _turns(forms, size, options.rounds, options.frames),
            }
        )
    return {
        **_header(facts),
        "task": {"variant": spec.variant, "classes": spec.classes, "weights": spec.weights.origin},
        "pieces": {"encoder": ENCODER, "decoder": DECODER},
        "sizes": sizes,
    }


def measure_variants(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each variant as it is, the least of it, and native: one round, random weights."""
    size, facts = FrameSize.parse(options.sizes[0]), machine_facts()
    rows = []
    for variant in options.variants:
        path = _exported(variant, folder)
        model = least_graph(onnx.load(str(path)), size)
        lean = folder / f"{variant}-least.onnx"
        lean.write_bytes(model.SerializeToString())
        live, nodes = live_set(model).peak_bytes / MIB, len(model.graph.node)
        forms = [
            Form(PLAIN, path),
            Form(ALL, lean, live_mib=live, nodes=nodes),
            Form(NATIVE, path, "native"),
        ]
        found = _turns(forms, size, 1, options.frames)
        rows.append({"size": f"{variant}, {size}", "variant": variant, "forms": found})
        path.unlink()
        lean.unlink()
    return {**_header(facts), "task": {"classes": 150, "weights": "random"}, "sizes": rows}


def _exported(variant: str, folder: Path) -> Path:
    path = folder / f"{variant}.onnx"
    export_onnx(ExportOptions(variant, classes=150, random_weights=True, output=path), say)
    return path


def _header(before: MachineFacts) -> dict[str, Any]:
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "segdeploy": __version__,
        "machine": before.to_dict(),
        "load_average_after": machine_facts().load_average,
    }


def _forms(
    source: onnx.ModelProto, path: Path, size: FrameSize, folder: Path, *, steps: bool
) -> list[Form]:
    forms = [Form(PLAIN, path), Form("arena off", path, arena=False)]
    model = fix_size(source, size)
    write_spec(model, fp32_spec(source).stretched_to(size))
    forms.append(_form("freed memory given back, no reuse", model, LEAST, size, folder))
    for name, step in STEPS:
        model = step(model)
        forms.append(_form(f"+ {name}", model, LEAST, size, folder))
    forms[-1] = Form(ALL, *_rest(forms[-1]))
    forms.append(_form(IN_BLOCK, model, BLOCK, size, folder))
    forms.append(Form(NATIVE, path, "native"))
    kept = (PLAIN, ALL, IN_BLOCK, NATIVE)
    return forms if steps else [form for form in forms if form.name in kept]


def _rest(form: Form) -> tuple[Path, str, bool, float | None, int | None]:
    return form.path, form.backend, form.arena, form.live_mib, form.nodes


def _form(name: str, model: onnx.ModelProto, mode: str, size: FrameSize, folder: Path) -> Form:
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    marked.metadata_props.add(key=LEAN_KEY, value=mode)
    path = folder / f"{size}-{len(list(folder.iterdir()))}.onnx"
    path.write_bytes(marked.SerializeToString())
    return Form(name, path, live_mib=live_set(model).peak_bytes / MIB, nodes=len(model.graph.node))


def _compared(forms: list[Form], size: FrameSize) -> dict[str, Any]:
    """Class maps of four frames by the plain and the leanest graph, pixel by pixel."""
    plain, lean = (next(form for form in forms if form.name == name) for name in (PLAIN, ALL))
    frames = [noise_frames(1, size, seed)[0] for seed in range(4)]
    maps = []
    for form in (plain, lean):
        with Segmenter(form.path, backend="onnxruntime", size=size) as segment:
            maps.append([segment(frame) for frame in frames])
    pairs = zip(*maps, strict=True)
    different = sum(int(np.count_nonzero(one != other)) for one, other in pairs)
    return {"pixels": 4 * size.height * size.width, "different": different}


def _turns(forms: list[Form], size: FrameSize, rounds: int, frames: int) -> list[dict[str, Any]]:
    runs: dict[str, list[Peak]] = {form.name: [] for form in forms}
    loads: dict[str, list[float | None]] = {form.name: [] for form in forms}
    for turn in range(rounds):
        for form in forms[turn % len(forms) :] + forms[: turn % len(forms)]:
            say(f"{size}, round {turn + 1}: {form.name}")
            peak = measure_peak(form.path, size, form.backend, frames, arena=form.arena)
            runs[form.name].append(peak)
            loads[form.name].append(machine_facts().load_average)
    # The first frame lays out buffers.
    ms = {n: [statistics.median(p.ms[1:]) for p in peaks] for n, peaks in runs.items()}
    ratios = {
        n: [one / plain for one, plain in zip(own, ms[PLAIN], strict=True)] for n, own in ms.items()
    }
    return [
        {
            "name": form.name,
            "backend": form.backend,
            "live_set_mib": form.live_mib,
            "nodes": form.nodes,
            "peak_mib": max(p.peak_mib for p in runs[form.name]),
            "loaded_mib": max(p.loaded_mib for p in runs[form.name]),
            "ms_median": statistics.median(ms[form.name]),
            "time_over_plain": statistics.median(ratios[form.name]),
            "load_averages": loads[form.name],
            "runs": [asdict(one) for one in runs[form.name]],
        }
        for form in forms
    ]


def table(data: dict[str, Any]) -> str:
    """Markdown: one row per size and form."""
    lines = [
        "| size | form | peak, MiB | loaded | live set (counted) | time over plain |",
        "|---|---|---|---|---|---|",
    ]
    for one in data["sizes"]:
        for form in one["forms"]:
            live = "" if form["live_set_mib"] is None else f"{form['live_set_mib']:.1f}"
            lines.append(
                f"| {one['size']} | {form['name']} | {form['peak_mib']:.1f} "
                f"| {form['loaded_mib']:.1f} | {live} | {form['time_over_plain']:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
