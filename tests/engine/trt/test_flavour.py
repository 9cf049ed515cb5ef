"""Which releases are taken, and what is said of the others."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.engine.trt.flavour import (
    FLAVOURS,
    TENSORRT,
    TENSORRT_RTX,
    library_from_module,
    load_library,
    release,
)
from segformer_deploy.errors import BackendError, MissingDependencyError
from tests.engine.trt.fake_trt import RTX, VERSIONS, install

BOTH = pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])


def module(version: str | None) -> Any:
    made = types.ModuleType("tensorrt")
    if version is not None:
        made.__version__ = version  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_supported_releases_load(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api = install(monkeypatch, version)
    library = load_library(TENSORRT_RTX if version == RTX else TENSORRT)
    assert library.api is api
    assert library.version == version
    assert library.name == f"{'TensorRT-RTX' if version == RTX else 'TensorRT'} {version}"


@pytest.mark.parametrize(
    ("backend", "version", "taken"),
    [
        (TENSORRT, "10.3.0", True),
        (TENSORRT, "10.3.0.26", True),
        (TENSORRT, "10.2.0.19", False),
        (TENSORRT, "8.6.1", False),
        (TENSORRT, "9.3.0", False),
        (TENSORRT, "11.99.0", True),
        (TENSORRT, "11.4.1.5.post12+cuda13", True),
        (TENSORRT, "12.0.0", False),
        (TENSORRT_RTX, "1.1.1.26", False),
        (TENSORRT_RTX, "1.2.0", True),
        (TENSORRT_RTX, "1.10.0", True),
        (TENSORRT_RTX, "2.0.0", False),
        (TENSORRT_RTX, "10.3.0", False),
    ],
)
def test_version_ranges(backend: str, version: str, taken: bool) -> None:
    flavour = FLAVOURS[backend]
    if taken:
        assert library_from_module(flavour, module(version)).version == version
        return
    with pytest.raises(BackendError) as caught:
        library_from_module(flavour, module(version))
    assert caught.value.found == f"{flavour.title} {version} is installed"
    oldest, below = (".".join(map(str, one)) for one in (flavour.oldest, flavour.below))
    assert caught.value.expected == f"{flavour.title} {oldest} or newer, below {below}"
    assert f"[{backend}]" in caught.value.next_step


@BOTH
@pytest.mark.parametrize("version", [None, ""])
def test_an_empty_module_is_not_a_library(backend: str, version: str | None) -> None:
    with pytest.raises(BackendError, match="is empty: it has no version") as caught:
        library_from_module(FLAVOURS[backend], module(version))
    assert "--system-site-packages" in caught.value.next_step


@BOTH
def test_a_folder_of_stubs_is_an_empty_module(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = FLAVOURS[backend].module
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.pyi").write_text("class Builder: ...\n")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BackendError, match="is empty"):
        load_library(backend)
    sys.modules.pop(name, None)


@BOTH
def test_a_library_that_is_not_installed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = FLAVOURS[backend].module
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingDependencyError, match=name) as caught:
        load_library(backend)
    assert caught.value.next_step == f'pip install "segformer-deploy[{backend}]"'


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
        "import no_such_part_of_it",
    ],
)
def test_a_library_that_does_not_load(
    backend: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = FLAVOURS[backend].module
    (tmp_path / f"{name}.py").write_text(body + "\n")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BackendError, match=f"'{name}' does not load") as caught:
        load_library(backend)
    assert caught.value.__cause__ is not None
    assert str(caught.value.__cause__) in caught.value.found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10.13.0.35", (10, 13, 0, 35)),
        ("10.3.0", (10, 3, 0)),
        ("11.4.1.5.post12", (11, 4, 1, 5)),
        ("1.7.1+cu13.2", (1, 7, 1)),
        ("", ()),
    ],
)
def test_numbers_of_a_version(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_the_table_agrees_with_itself() -> None:
    for backend, flavour in FLAVOURS.items():
        assert flavour.backend == backend
        assert flavour.oldest < flavour.below
        assert bool(flavour.capabilities) == bool(flavour.default_capability)
        assert not flavour.capabilities or flavour.default_capability in flavour.capabilities
