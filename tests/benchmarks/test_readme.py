"""The list of benchmarks is whole: each script has its row, each row its script and its results."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
README = (BENCHMARKS / "README.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.split("## All of them")[1].split("\n## ")[0].splitlines()
    if line.startswith("| [")
]
DURATIONS = re.compile(r"seconds|minutes|tens of minutes|an hour|by the data|as long as .*")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def is_run_as_a_script(path: Path) -> bool:
    """Whether it has the block that only running it enters; modules beside them have none."""
    return any(
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for node in tree_of(path).body
    )


def tells_its_command(path: Path) -> bool:
    """Whether its own description says how to run it; a child of another script does not."""
    name = path.relative_to(BENCHMARKS.parent).as_posix()
    return f"python {name}" in (ast.get_docstring(tree_of(path)) or "")


SCRIPTS = [path for path in sorted(BENCHMARKS.glob("*.py")) if is_run_as_a_script(path)]
INNER = [path for path in sorted(BENCHMARKS.glob("*/*.py")) if tells_its_command(path)]


def linked() -> set[str]:
    return set(re.findall(r"\]\(([\w/]+\.py)\)", README.split("\n## peers.py")[0]))


@pytest.mark.parametrize("path", [*SCRIPTS, *INNER], ids=lambda path: path.name)
def test_each_script_is_named(path: Path) -> None:
    assert path.relative_to(BENCHMARKS).as_posix() in linked()


def test_the_rule_sees_scripts_and_leaves_modules_out() -> None:
    names = {path.name for path in SCRIPTS}
    assert {"peers.py", "budget.py", "estimate_chart.py"} <= names
    assert not {"budget_frames.py", "live_process.py", "scaling_fit.py"} & names
    assert BENCHMARKS / "floor" / "run.py" in INNER


def test_nothing_is_named_that_is_not_there() -> None:
    for name in linked():
        assert (BENCHMARKS / name).is_file(), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_says_question_command_duration_and_result(row: list[str]) -> None:
    script, question, command, takes, leaves = row
    name = re.fullmatch(r"\[([\w/]+\.py)\]\(\1\)", script)
    assert name is not None
    assert len(question) > 15
    words = shlex.split(command.strip("`"))
    assert words[:2] == ["python", f"benchmarks/{name[1]}"]
    assert DURATIONS.fullmatch(takes), takes
    # Some take their options in a module beside them.
    modules = [
        BENCHMARKS / name[1],
        *BENCHMARKS.glob("*options.py"),
        *BENCHMARKS.glob("*/options.py"),
    ]
    text = "".join(path.read_text("utf-8") for path in modules)
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf'"(--)?{option[2:]}"', text), option
    files = re.findall(r"`([\w-]+\.json)`", leaves)
    assert files or leaves.startswith("nothing")


def test_each_results_file_has_its_script() -> None:
    named = {file for row in ROWS for file in re.findall(r"`([\w-]+\.json)`", row[4])}
    assert {path.name for path in (BENCHMARKS / "results").glob("*.json")} <= named
