"""The package's stream code with one record, wait or synchronise left out: does anything notice?"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import segformer_deploy.engine.trt.runtime
import segformer_deploy.runtime.device_segment
import segformer_deploy.runtime.lane
import segformer_deploy.runtime.pipeline
import segformer_deploy.runtime.tables

MODULES: tuple[Any, ...] = (
    segformer_deploy.runtime.pipeline,
    segformer_deploy.runtime.lane,
    segformer_deploy.runtime.device_segment,
    segformer_deploy.runtime.tables,
    segformer_deploy.engine.trt.runtime,
)
ORDERING = ("record", "wait", "synchronise", "synchronise_event")


@dataclass(frozen=True)
class Mutant:
    """One ordering call, and the method that it stands in."""

    module: Any
    owner: str
    method: str
    line: int
    call: str

    def __str__(self) -> str:
        name = self.module.__name__.rpartition(".")[2]
        return f"{name}.{self.owner}.{self.method}: {self.call}"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The method as it is without the call."""
        tree = _LeaveOut(self.line).visit(_tree(self.module))
        copy = types.ModuleType(self.module.__name__)
        copy.__package__ = self.module.__package__
        with pytest.MonkeyPatch.context() as patch:
            exec(compile(tree, f"mutant of {self}", "exec"), copy.__dict__)
            changed = vars(getattr(copy, self.owner))[self.method]
            # Its names are those of the module that everybody else uses.
            function = getattr(changed, "__wrapped__", changed)
            own = types.FunctionType(
                *(function.__code__, vars(self.module), function.__name__),
                *(function.__defaults__, function.__closure__),
            )
            own.__kwdefaults__ = function.__kwdefaults__
            if function is not changed:
                own = contextmanager(own)  # type: ignore[assignment]
            patch.setattr(getattr(self.module, self.owner), self.method, own)
            yield


class _LeaveOut(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self.line = line

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self.line else node


def _tree(module: Any) -> ast.Module:
    return ast.parse(Path(module.__file__).read_text())


def _is_ordering(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ORDERING
    )


def mutants() -> list[Mutant]:
    """One for each ordering call of `MODULES`."""
    found = []
    for module in MODULES:
        for owner in ast.walk(_tree(module)):
            if not isinstance(owner, ast.ClassDef):
                continue
            for method in owner.body:
                if not isinstance(method, ast.FunctionDef):
                    continue
                for node in ast.walk(method):
                    if _is_ordering(node):
                        assert isinstance(node, ast.Expr)
                        place = owner.name, method.name, node.lineno
                        found.append(Mutant(module, *place, ast.unparse(node)))
    return found


def calls() -> int:
    """All ordering calls of `MODULES`, wherever they stand."""
    return sum(
        isinstance(node, ast.Attribute) and node.attr in ORDERING
        for module in MODULES
        for node in ast.walk(_tree(module))
    )
