"""Our sources as they would be if one library were imported by name: what mypy can check."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "segformer_deploy"
_CONFIG = """\
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
show_error_codes = true
# `nptype` is Python without annotations:
disallow_untyped_calls = false
warn_return_any = false
"""
_MENDS = (
    # Not Python: a keyword as a name, and a default before none. We call none of these.
    (r" in: list\[", " in_: list["),
    (r"power: Weights = None, channel_axis: int\)", "power: Weights = None, *_: int)"),
    # The library's type of that name hides Python's.
    (r"^bool: DataType.*$", ""),
    # As its own text says: "behave like tuples", and "converts iterables to Dims".
    (r"^class Dims:$", "class Dims:\n    def __iter__(self) -> typing.Iterator[int]: ..."),
    (r"min: Dims, opt: Dims, max: Dims", "min: DimsLike, opt: DimsLike, max: DimsLike"),
    (r"^import typing$", "import typing\nDimsLike = typing.Union['Dims', tuple[int, ...]]"),
    # None where it fails, or mypy would not look behind our question.
    (r"(def build_serialized_network\(.*\)) -> IHostMemory:", r"\1 -> IHostMemory | None:"),
    (r"(def deserialize_cuda_engine\(.*\)) -> ICudaEngine:", r"\1 -> ICudaEngine | None:"),
    (r"(def create_execution_context\(.*\)) -> (\w+):", r"\1 -> \2 | None:"),
)
"""What is wrong in the published types, found and better."""


class _Named(ast.NodeTransformer):
    """``api = library.api`` and a parameter ``api: Any``  ->  ``import tensorrt as api``."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        for argument in node.args.args:
            if argument.arg == "api":
                argument.arg = "api_given"
                start = 1 if ast.get_docstring(node) is not None else 0
                node.body.insert(start, _import())
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | list[ast.stmt]:
        (target,) = node.targets if len(node.targets) == 1 else (None,)
        if _is_api(target) and _gives_api(node.value):
            return _import()
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
            rest = [pair for pair in pairs if not (_is_api(pair[0]) and _gives_api(pair[1]))]
            if len(rest) < len(pairs):
                target.elts, node.value.elts = ([pair[i] for pair in rest] for i in (0, 1))
                return [_import(), node]
        return node


def _import() -> ast.stmt:
    return ast.parse("import tensorrt as api").body[0]


def _is_api(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name) and node.id == "api"


def _gives_api(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("api", "_api")


def named(source: str) -> str:
    """`source`, with the library's module where it had a value of type Any."""
    return ast.unparse(ast.fix_missing_locations(_Named().visit(ast.parse(source))))


def errors_of(
    folder: Path, stubs: Path, *, left_out: tuple[str, ...], plant: str = ""
) -> list[str]:
    """What mypy says of the room of TensorRT, copied to `folder` and read against `stubs`.

    Args:
        plant: a function that is added to runtime.py.
    """
    copy = folder / "segformer_deploy"
    shutil.copytree(PACKAGE, copy, ignore=lambda _, names: [n for n in names if _is_other(n)])
    room = copy / "engine" / "trt"
    for path in sorted(room.glob("*.py")):
        if path.name in left_out:
            path.unlink()
            continue
        text = path.read_text(encoding="utf-8")
        if path.name == "runtime.py":
            text += plant
        path.write_text(named(text), encoding="utf-8")
    _mended(stubs, folder / "stubs")
    config = folder / "mypy.ini"
    config.write_text(_CONFIG)
    files = [str(path.relative_to(folder)) for path in sorted(room.glob("*.py"))]
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--no-error-summary"]
    done = subprocess.run(
        [*command, *files],
        cwd=folder,
        env={**os.environ, "MYPYPATH": "stubs"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    # The published types have errors of their own, all over.
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    return [line for line in lines if line.startswith("segformer_deploy")]


def _mended(stubs: Path, copy: Path) -> None:
    for name in ("tensorrt", "tensorrt_bindings"):
        shutil.copytree(stubs / name, copy / name)
    path = copy / "tensorrt_bindings" / "tensorrt.pyi"
    text = path.read_text(encoding="utf-8")
    for found, better in _MENDS:
        text, count = re.subn(found, better, text, flags=re.MULTILINE)
        assert count, f"the published types have no {found} any more"
    path.write_text(text, encoding="utf-8")


def _is_other(name: str) -> bool:
    return "." in name and not name.endswith(".py")
