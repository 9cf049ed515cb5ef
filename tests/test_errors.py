"""Every error says what was found, and the drawn tree is the real one."""

from __future__ import annotations

import re

from segformer_deploy import errors


def test_text_has_found_expected_and_next() -> None:
    error = errors.InputError("a cat", "a dog", "adopt one")
    assert str(error) == "a cat\n  expected: a dog\n  next: adopt one"
    assert str(errors.RunError("it broke")) == "it broke"


def test_the_drawn_tree_is_the_class_tree() -> None:
    drawn: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.search(r"[A-Z]\w+Error", line)
        if not found or not re.match(r"^\s+([│├└─\s]*)[A-Z]", line):
            continue
        depth = found.start()
        parents = [(d, n) for d, n in parents if d < depth]
        drawn[found[0]] = parents[-1][1] if parents else "Exception"
        parents.append((depth, found[0]))
    real = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert drawn == real


def test_a_missing_library_names_the_extra() -> None:
    error = errors.MissingDependencyError("torch", "export", "exporting")
    assert 'pip install "segformer-deploy[export]"' in str(error)
