"""The command line of `benchmarks/int8_peers.py`, and the list of tools."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from peers_runners.parent import BENCHMARKS

from segformer_deploy.errors import SpecError
from segformer_deploy.spec import FrameSize

MODELOPT = "quantise_modelopt"


@dataclass(frozen=True)
class Tool:
    """One way in which another tool makes INT8: its name, its runner and the runner's preset."""

    name: str
    module: str
    preset: str


TOOLS = (
    Tool("onnxruntime-default", "quantise_onnxruntime", "default"),
    Tool("onnxruntime-products", "quantise_onnxruntime", "products"),
    Tool("modelopt", MODELOPT, "fp16"),
    Tool("modelopt-fp32", MODELOPT, "fp32"),
)
DEFAULT_TOOLS = [tool for tool in TOOLS if tool.name != "modelopt-fp32"]
FP32 = "fp32"


@dataclass(frozen=True)
class Ours:
    """An ONNX file that is evaluated as it is."""

    name: str
    path: Path


def read_options(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """What was asked for; exit code 2 with a message where it does not fit together."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segdeploy-int8"
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FP32.onnx", help="made by segdeploy export")
    add("--ours", type=_ours, action="append", default=[], metavar="NAME=FILE.onnx",
        help="an INT8 file to evaluate as it is; may be given several times")  # fmt: skip
    add("--calibration", type=Path, help="folder of frames for the other tools")
    add("--samples", type=_whole, default=64, metavar="N", help="of them, evenly spread")
    add("--images", type=Path, required=True, help="folder of frames to evaluate on")
    add("--labels", type=Path, required=True, help="their label pictures (class indices)")
    add("--ignore", type=int, metavar="V", help="the only label value to ignore, as in eval")
    add("--only", type=_tools, default=DEFAULT_TOOLS, metavar="A,B",
        help=f"tools: {', '.join(tool.name for tool in TOOLS)}; or none")  # fmt: skip
    add("--prepare", action="store_true", help="make ModelOpt's environment where there is none")
    add("--modelopt-python", type=Path, metavar="PATH", help="of an environment that has ModelOpt")
    add("--reference", action="store_true", help="also with Q and DQ computed one by one")
    add("--time", action="store_true", help="also ONNX Runtime's time on the CPU, interleaved")
    add("--size", type=_size, default=FrameSize(512, 512), metavar="HxW", help="with --time")
    add("--rounds", type=_whole, default=30, metavar="N", help="with --time: turns that count")
    add("--warm-up", type=_whole, default=5, metavar="N", help="with --time: turns before")
    add("--threads", type=_whole, default=2, metavar="N", help="of ONNX Runtime")
    add("--work", type=Path, default=cache, help="where the tools' files are kept")
    add("--output", type=Path, default=BENCHMARKS / "results" / "int8-peers.json", help="JSON file")
    add("--json", action="store_true", help="print one JSON object on stdout too")
    options = parser.parse_args(arguments)
    names = [FP32, *(tool.name for tool in options.only), *(one.name for one in options.ours)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        parser.error(f"the name {twice} stands for two files: give --ours another NAME")
    if options.only and options.calibration is None:
        parser.error("the tools need --calibration FOLDER; --only none leaves them out")
    # What a run clears lies in a folder of its own, apart from the environment and whatever
    # else a named --work may hold.
    options.files = options.work / "int8-peers"
    if options.modelopt_python is None:
        options.modelopt_python = options.work / "modelopt-environment" / "bin" / "python"
    elif options.prepare:
        parser.error("--prepare makes an environment, --modelopt-python names one: leave one out")
    return options


def _ours(text: str) -> Ours:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE.onnx")
    return Ours(name, Path(path))


def _tools(text: str) -> list[Tool]:
    """Tools by name, in the order of the list; ``none`` for none."""
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    known = {tool.name for tool in TOOLS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(sorted(known))}")
    return [tool for tool in TOOLS if tool.name in names]


def _size(text: str) -> FrameSize:
    try:
        return FrameSize.parse(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(error.found) from error


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
