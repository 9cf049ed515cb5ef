"""How good is INT8 by default in other tools, on the same model and the same frames as ours?

    python benchmarks/int8_peers.py --model FP32.onnx --ours ours=INT8.onnx \\
        --calibration train/images --images test/images --labels test/labels

Each tool quantises the FP32 file in a process of its own (NVIDIA Model Optimizer in an
environment of its own) with the same calibration frames. All files, ours among them, are then
run by ONNX Runtime on the same evaluation frames. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The runners' packages and this checkout; harmless where both are importable already.
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from int8_runners import report, tools  # noqa: E402
from int8_runners.measure import Score, opened, score  # noqa: E402
from int8_runners.options import FP32, Ours, read_options  # noqa: E402
from int8_runners.quantised import quantised  # noqa: E402
from int8_runners.timing import times  # noqa: E402

from segformer_deploy.bench import ClassMap, read_frame  # noqa: E402
from segformer_deploy.bench.labels import Pairing, pair_files  # noqa: E402
from segformer_deploy.cli.common import emit, error_dict, progress, say  # noqa: E402
from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx  # noqa: E402
from segformer_deploy.errors import MissingDependencyError, SegdeployError, SpecError  # noqa: E402
from segformer_deploy.files import sha256_of_file, write_text  # noqa: E402
from segformer_deploy.runtime.preprocess import prepare  # noqa: E402
from segformer_deploy.spec import METADATA_KEY, FrameSize, ModelSpec, ResizeRule  # noqa: E402
from segformer_deploy.video.images import image_size, list_images  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments, "INT8 of other tools and ours, on the same frames.")
    typed = sys.argv[1:] if arguments is None else arguments
    try:
        data = measure(options, ["python", "benchmarks/int8_peers.py", *typed])
        write_text(options.output, json.dumps(data, indent=1) + "\n")
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            emit(error_dict(error))
        return 1
    except OSError as error:  # a --work that cannot be written, a disk that is full
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            emit(error_dict(SegdeployError(str(error))))
        return 1
    except KeyboardInterrupt:
        return 130
    report.show(data)
    say(f"wrote {options.output}")
    if options.json:
        emit(data)
    return 0


def measure(options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """Quantise, evaluate, time; the whole result as a JSON-ready dict."""
    facts = report.facts()  # the load before ours
    spec = _spec(options.model)
    # Whatever can be wrong with what was named is found before minutes are spent.
    pairs = pair_files(options.images, options.labels)
    for one in options.ours:
        with opened(one.path, spec, options.threads):
            pass
    made, frames = _made(options, spec)
    files = [Ours(FP32, options.model), *(Ours(one.name, one.path) for one in made), *options.ours]
    scores = evaluate_all(options, spec, pairs, files)
    timed = _times(options, files, pairs) if options.time else {}
    by_name = {one.name: one for one in made}
    size = spec.resize.network_size(image_size(pairs.pairs[0].image))
    results = [
        _result(one, by_name.get(one.name), files[0], size)
        | scores[one.name]
        | {"time": timed.get(one.name)}
        for one in files
    ]
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(map(_without_folders, command)),
        "task": _task(options, spec, pairs, frames, size),
        **facts,
        "results": results,
    }


def evaluate_all(
    options: argparse.Namespace, spec: ModelSpec, pairs: Pairing, files: Sequence[Ours]
) -> dict[str, dict[str, Any]]:
    """`score` and, where it was asked for, `reference` of each file by name; FP32 comes first."""
    wanted: Sequence[ClassMap] = ()

    def evaluated(one: Ours, *, as_stated: bool) -> tuple[Score, list[ClassMap]]:
        title = f"{one.name}, as stated" if as_stated else one.name
        with (
            opened(one.path, spec, options.threads, as_stated=as_stated) as engine,
            progress(f"evaluating {title}", len(pairs)) as advance,
        ):
            return score(
                *(engine, spec, pairs),
                ignore=options.ignore,
                threads=options.threads,
                wanted=wanted,
                keep=not wanted,
                on_image=advance,
            )

    found: dict[str, dict[str, Any]] = {}
    fp32_miou = 0.0
    for one in files:
        own, class_maps = evaluated(one, as_stated=False)
        if not wanted:
            wanted, fp32_miou = class_maps, own.report.miou
        stated = None
        if options.reference and one.name != FP32:
            stated, _ = evaluated(one, as_stated=True)
        found[one.name] = {
            "score": _score_dict(own, fp32_miou),
            "reference": None if stated is None else _score_dict(stated, fp32_miou),
            "notes_of_evaluation": list(own.report.notes),
        }
    return found


def _score_dict(own: Score, fp32_miou: float) -> dict[str, Any]:
    """`drop` is FP32's mIoU less this one's, in points."""
    return {**own.to_dict(), "drop": fp32_miou - own.report.miou}


def _spec(model: Path) -> ModelSpec:
    spec = spec_from_onnx(model)
    if spec.output != "logits":
        raise SpecError(
            f"{model} gives class maps",
            "logits: other tools' files are judged by the same class map of ours",
            "segdeploy export without --class-map",
        )
    return spec


def _made(options: argparse.Namespace, spec: ModelSpec) -> tuple[list[tools.Made], list[Path]]:
    """The tools' INT8 files, and the calibration frames they were given."""
    if not options.only:
        return [], []
    frames = tools.evenly_spread(list_images(options.calibration), options.samples)
    pythons = tools.interpreters(options.only, options.modelopt_python, make=options.prepare)
    folder = options.files / "frames"
    tools.write_frames(frames, spec, folder)
    made = []
    for tool in options.only:
        say(f"quantising with {tool.name}")
        python = pythons[tool.module]
        made.append(
            tools.quantise(tool, python, options.model, folder, options.files, options.threads)
        )
    return made, frames


def _times(
    options: argparse.Namespace, files: Sequence[Ours], pairs: Pairing
) -> dict[str, dict[str, Any]]:
    rule = ResizeRule.stretch_to(options.size)
    image = prepare(read_frame(pairs.pairs[0].image), rule)[None]
    return times(
        *({one.name: one.path for one in files}, image),
        threads=options.threads,
        rounds=options.rounds,
        warm_up=options.warm_up,
    )


def _result(one: Ours, made: tools.Made | None, fp32: Ours, size: FrameSize) -> dict[str, Any]:
    """What a file is before it runs: how it was made, its size, how much of it is INT8."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "export", "counting INT8 operations") from error
    counted = quantised(onnx.load(one.path), size)
    notes = list(made.facts["notes"]) if made else []
    if METADATA_KEY not in read_onnx_header(one.path).metadata:
        notes.append("the file lost its metadata: the FP32 file's stands in for it")
    if counted.floating_weights:
        notes.append(
            f"the file keeps {counted.floating_weights} weights in floating point, with Q and DQ "
            "behind them: INT8 does not make it smaller"
        )
    length = one.path.stat().st_size
    return {
        "name": one.name,
        "file": one.path.name,
        "sha256": sha256_of_file(one.path),
        "bytes": length,
        "share_of_fp32_bytes": length / fp32.path.stat().st_size,
        "int8": asdict(counted) | {"share": counted.share},
        "made_by": made and {**made.facts, "seconds": made.seconds},
        "notes": notes,
    }


def _without_folders(argument: str) -> str:
    """Where files lie on this machine is nobody's business: ``a=/x/y.onnx`` -> ``a=y.onnx``."""
    name, equals, value = argument.rpartition("=")
    return name + equals + (Path(value).name if Path(value).is_absolute() else value)


def _task(
    options: argparse.Namespace,
    spec: ModelSpec,
    pairs: Pairing,
    frames: Sequence[Path],
    size: FrameSize,
) -> dict[str, Any]:
    return {
        "variant": spec.variant,
        "classes": list(spec.class_names),
        "network": [size.height, size.width],
        "model_sha256": sha256_of_file(options.model),
        "calibration_frames": [path.name for path in frames],
        "evaluation_frames": len(pairs),
        "ignore": options.ignore,
        "threads": options.threads,
        "timed_at": [options.size.height, options.size.width] if options.time else None,
        "rounds": options.rounds if options.time else None,
        "warm_up_rounds": options.warm_up if options.time else None,
    }


if __name__ == "__main__":
    sys.exit(main())
