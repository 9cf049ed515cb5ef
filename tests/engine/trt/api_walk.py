"""Reads our sources and lists every name of the TensorRT libraries that they use.

Followed are: ``api.X.Y``; variables, parameters, attributes, results and loop variables that
are annotated ``trt.X`` or ``rtx.X``; what is assigned from any of these; and the methods of
classes derived from ``api.X``. Attributes are known by name in the whole room: ``self._network``
of one class and ``parsed.network`` of another are told apart by nothing else.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RTX = "rtx:"
"""Before a class that is annotated ``rtx.X``: no other library will do."""
_DUMP = """
import importlib, json, sys
api = importlib.import_module(sys.argv[1])
names = {"": [n for n in dir(api)]}
todo = [(n, getattr(api, n)) for n in dir(api)]
while todo:
    path, value = todo.pop()
    if isinstance(value, type):
        names[path] = dir(value)
        inner = [(n, getattr(value, n, None)) for n in dir(value) if not n.startswith("_")]
        todo += [(f"{path}.{n}", v) for n, v in inner if isinstance(v, type) and v is not value]
print(json.dumps(names))
"""

Names = dict[str, set[str]]
"""Class ("" is the module itself) -> the names in it."""


@dataclass(frozen=True)
class Use:
    """``api.owner.name``, and where; the owner "" is the module."""

    owner: str
    name: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.owner.removeprefix(RTX) or 'api'}.{self.name}"


def names_of(module: str, folder: Path | None = None) -> Names:
    """What a library's bindings hold; asked in a process of its own, as two do not mix."""
    code = (f"import sys; sys.path.append({str(folder)!r})\n" if folder else "") + _DUMP
    done = subprocess.run(
        [sys.executable, "-c", code, module], capture_output=True, text=True, check=True
    )
    return {path: set(names) for path, names in json.loads(done.stdout).items()}


def uses_of(sources: dict[str, str]) -> list[Use]:
    """Every use in these files (name -> text), in order."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    attributes: dict[str, str] = {}
    results: dict[str, str] = {}
    for tree in trees.values():
        _learn(tree, attributes, results)
    # Once to learn what attributes are assigned, once to look.
    for _ in range(2):
        walkers = [_Walker(name, attributes, results) for name in trees]
        for walker, tree in zip(walkers, trees.values(), strict=True):
            walker.visit(tree)
    found = {use for walker in walkers for use in walker.uses}
    return sorted(found, key=lambda use: (use.file, use.line, use.owner, use.name))


def _learn(tree: ast.AST, attributes: dict[str, str], results: dict[str, str]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    _note(attributes, part.target.id, part.annotation)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            _note(attributes, node.target.attr, node.annotation)
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            _note(results, node.name, node.returns)


def _note(kinds: dict[str, str], name: str, annotation: ast.AST) -> None:
    kind = _kind(annotation)
    if kind is not None:
        kinds[name] = kind


def _kind(annotation: ast.AST) -> str | None:
    """``Iterator[trt.ILayer]``, ``trt.ILayer | None``  ->  ILayer."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "trt":
                return node.attr
            if node.value.id == "rtx":
                return RTX + node.attr
    return None


@dataclass
class _Walker(ast.NodeVisitor):
    file: str
    attributes: dict[str, str]
    results: dict[str, str]
    uses: list[Use] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])
    """Name -> class of its value, or ``=X.Y`` for the object ``api.X.Y`` itself."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope = dict(self.scopes[-1])
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            scope.pop(argument.arg, None)
            if argument.annotation is not None:
                _note(scope, argument.arg, argument.annotation)
        self.scopes.append(scope)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            path = self._object(base)
            if path is not None and path.startswith("="):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef) and part.name != "__init__":
                        self._use(path[1:], part.name, part)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            _note(self.scopes[-1], node.target.id, node.annotation)
        kind = _kind(node.annotation)
        if kind is not None:
            prefix = RTX if kind.startswith(RTX) else ""
            self._use(prefix, kind.removeprefix(RTX), node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def _assign(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=True):
                self._assign(one, other)
            return
        kind = self._object(value)
        if kind is None:
            return
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = kind
        elif isinstance(target, ast.Attribute) and not kind.startswith("="):
            self.attributes[target.attr] = kind

    def visit_For(self, node: ast.For) -> None:
        self._assign(node.target, node.iter)
        self.generic_visit(node)

    def _comprehension(self, node: Any) -> None:
        for generator in node.generators:
            self._assign(generator.target, generator.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self._object(node.value)
        if owner is not None:
            self._use(owner.removeprefix("="), node.attr, node)
        self.generic_visit(node)

    def _use(self, owner: str, name: str, node: ast.AST) -> None:
        self.uses.append(Use(owner, name, self.file, getattr(node, "lineno", 0)))

    def _object(self, node: ast.AST) -> str | None:
        """What an expression is, in the words of `scopes`; None where it is not theirs."""
        if isinstance(node, ast.Name):
            return "=" if node.id == "api" else self.scopes[-1].get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr in ("api", "_api"):
                return "="
            owner = self._object(node.value)
            if owner is not None and owner.startswith("="):
                return "=" + f"{owner[1:]}.{node.attr}".lstrip(".")
            return self.attributes.get(node.attr) if owner is None else None
        if isinstance(node, ast.Call):
            made = self._object(node.func)
            if made is not None and made.startswith("="):
                return made[1:] or None
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            return self.results.get(name)
        return None


def unknown(uses: Iterable[Use], *libraries: Names) -> list[str]:
    """The uses that none of `libraries` has."""
    return [
        str(use)
        for use in uses
        if not any(_has(library, use.owner.removeprefix(RTX), use.name) for library in libraries)
    ]


def _has(library: Names, owner: str, name: str) -> bool:
    if owner in library:
        return name in library[owner]
    # A member of an enumeration has what every object has.
    above, _, last = owner.rpartition(".")
    return last in library.get(above, ()) and name in ("name", "value")
