"""Does `segdeploy fit` pick what a full matrix confirms? Both measured here, one after the other.

::

    python benchmarks/fit_check.py --output benchmarks/results/matrix

A matrix of every variant, size, precision and backend is measured first; then `fit` searches the
same grid under each budget, by its own measurements, skipping what it can. Its pick is held
against the most accurate case of the matrix within the budget. Where they differ, the nearest
case says whether the budget lies inside the noise of the clock. A budget is MEMORY:LATENCY.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from segformer_deploy.files import write_text

RESULT = Path(__file__).parent / "results" / "fit-check.json"
GRID = ("variants", "sizes", "precisions", "backends")
PRECISIONS = ("int8", "fp16", "fp32")
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
MIB = {"M": 1.0, "G": 1024.0}


def budget_from_text(text: str) -> tuple[str, str, float, float]:
    """``128M:250ms`` -> (memory, latency, MiB, milliseconds)."""
    memory, _, latency = text.partition(":")
    if memory[-1:] not in MIB or not latency.endswith("ms"):
        raise SystemExit(f"a budget of '{text}': expected MEMORY:LATENCY, such as 128M:250ms")
    return memory, latency, float(memory[:-1]) * MIB[memory[-1]], float(latency[:-2])


def name_of(result: dict[str, Any]) -> str:
    """As `fit` names a case."""
    case = result["case"]
    return f"{case['variant']}-{result['size']}-{case['precision']}-{case['backend']}"


def rank(result: dict[str, Any]) -> tuple[Any, ...]:
    """Better is larger: the order that fit documents where no labelled frames were given.

    It is one of b0 to b5; another network has no place in it.
    """
    height, width = map(int, result["size"].split("x"))
    case = result["case"]
    p50, peak = result["latency_ms"]["p50"], result["peak_rss_mib"]
    precision = PRECISIONS.index(case["precision"])
    if case["variant"] not in VARIANTS:
        raise SystemExit(f"a network of the variant '{case['variant']}': expected b0 to b5")
    return VARIANTS.index(case["variant"]), height * width, precision, -p50, -peak


def best_within(results: list[dict[str, Any]], mib: float, ms: float) -> dict[str, Any] | None:
    """The most accurate case of the matrix within both."""
    fitting = [
        one
        for one in results
        if not one["error"] and one["peak_rss_mib"] <= mib and one["latency_ms"]["p50"] <= ms
    ]
    return max(fitting, key=rank, default=None)


def nearest(results: list[dict[str, Any]], ms: float) -> tuple[str, float]:
    """The case whose median lies nearest to the budget, and by how much, as a share."""
    sound = [one for one in results if not one["error"]]
    one = min(sound, key=lambda found: abs(found["latency_ms"]["p50"] / ms - 1))
    return name_of(one), one["latency_ms"]["p50"] / ms - 1


def segdeploy(words: list[str]) -> dict[str, Any]:
    """The JSON of a command; its progress goes to the terminal.

    `fit` exits with 1 and its report where nothing is within the budget; an error is no report.
    """
    command = [str(Path(sys.executable).with_name("segdeploy")), *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answered = done.returncode in (0, 1) and done.stdout
    found: dict[str, Any] = json.loads(done.stdout) if answered else {}
    if "error" in found or "folder" not in found:
        raise SystemExit(f"segdeploy {' '.join(words)}: exit code {done.returncode}")
    return found


def check(grid: list[str], budgets: list[str], output: Path) -> dict[str, Any]:
    """Measure the matrix and each budget's search; returns what is written to the results."""
    matrix = segdeploy(["bench", *grid, "--output", str(output / "cases")])
    results = matrix["results"]
    rows = []
    for memory, latency, mib, ms in map(budget_from_text, budgets):
        with tempfile.TemporaryDirectory() as folder:
            # The engines are the matrix's; every figure is measured anew.
            shutil.copytree(output / "cases" / "engines", Path(folder) / "engines")
            words = ["fit", "--memory", memory, "--latency", latency, *grid, "--output", folder]
            found = segdeploy(words)
        best = best_within(results, mib, ms)
        confirmed = None if best is None else name_of(best)
        near, share = nearest(results, ms)
        rows.append(
            {
                "memory": memory,
                "latency": latency,
                "picked": found["winner"],
                "confirmed": confirmed,
                "agree": found["winner"] == confirmed,
                "measured": found["measured"],
                "skipped": len(found["skipped"]),
                "nearest": near,
                "nearest_share": share,
                "points": found["points"],
            }
        )
        print(describe(rows[-1]), flush=True)
    return {"format": 1, "machine": results[0]["machine"], "grid": grid, "budgets": rows}


def describe(row: dict[str, Any]) -> str:
    """One line for people."""
    verdict = "as the matrix" if row["agree"] else f"the matrix says {row['confirmed']}"
    return (
        f"{row['memory']} {row['latency']}: fit picked {row['picked']} ({verdict}); measured "
        f"{row['measured']}, skipped {row['skipped']}; nearest to the budget: {row['nearest']}, "
        f"{100 * row['nearest_share']:+.0f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="b0,b1,b2")
    parser.add_argument("--sizes", default="256x256,384x384,512x512")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--backends", default="native,onnxruntime")
    parser.add_argument("--runs", default="12")
    parser.add_argument("--budget", action="append", metavar="128M:250ms")
    parser.add_argument("--output", type=Path, default=Path("results/fit-check"))
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    grid = [word for side in GRID for word in (f"--{side}", getattr(options, side))]
    budgets = options.budget or ["96M:100ms", "128M:250ms", "256M:1000ms"]
    found = check([*grid, "--runs", options.runs], budgets, options.output)
    write_text(options.result, json.dumps(found, indent=1) + "\n")
    if not all(row["agree"] for row in found["budgets"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
