"""The command line of `benchmarks/scaling.py`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from peers_runners.parent import BENCHMARKS

from segformer_deploy.engine.backend import AUTO, CPU_BACKENDS

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
ROUNDS, QUICK_ROUNDS = 25, 3
MEMORY_RUNS, QUICK_MEMORY_RUNS = 3, 1


def read_options(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """What was asked for, with every default filled in; `output` and `chart` None for no file."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few small points; keeps only what --output says")
    add("--rounds", type=_whole(1), metavar="N",
        help=f"turns of each point that count: {ROUNDS}, with --quick {QUICK_ROUNDS}")  # fmt: skip
    add("--warm-up", type=_whole(0), default=1, metavar="N", help="rounds before, thrown away")
    add("--pause", type=_pause, default=20.0, metavar="MS", help="after each turn")
    add("--memory-runs", type=_whole(1), metavar="N",
        help="processes per point that tell their memory: "
        f"{MEMORY_RUNS}, with --quick {QUICK_MEMORY_RUNS}")  # fmt: skip
    add("--variant", choices=VARIANTS, default="b0")
    add("--backend", choices=(AUTO, *CPU_BACKENDS), default=AUTO)
    add("--output", type=Path, help="JSON file: benchmarks/results/scaling-VARIANT.json")
    add("--chart", type=Path, help="PNG file: docs/scaling.png")
    add("--no-chart", action="store_true", help="draw none")
    add("--json", action="store_true", help="print one JSON object on stdout, no tables")
    options = parser.parse_args(arguments)
    if options.chart and options.no_chart:
        parser.error("--chart and --no-chart exclude each other: leave one out")
    return _with_defaults(options)


def _with_defaults(options: argparse.Namespace) -> argparse.Namespace:
    quick = options.quick
    options.rounds = options.rounds or (QUICK_ROUNDS if quick else ROUNDS)
    options.memory_runs = options.memory_runs or (QUICK_MEMORY_RUNS if quick else MEMORY_RUNS)
    if not quick:  # what small points say must not take the place of a measurement
        results = BENCHMARKS / "results"
        options.output = options.output or results / f"scaling-{options.variant}.json"
        if not options.no_chart:
            options.chart = options.chart or BENCHMARKS.parent / "docs" / "scaling.png"
    return options


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of {least} or more")
        return int(text)

    return read


def _pause(text: str) -> float:
    try:
        ms = float(text)
    except ValueError:
        ms = math.nan
    if not 0 <= ms < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of milliseconds, 0 or more")
    return ms
