"""Whether a folder of plans runs on this machine: release, GPU, system, and what RTX says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.engine.here import check_plan_runs_here, this_system
from segformer_deploy.engine.package import check_folder, load_engine
from segformer_deploy.errors import (
    BackendError,
    MismatchError,
    MissingDependencyError,
)
from segformer_deploy.runtime.segmenter import Segmenter
from tests.engine.test_plan_folder import (
    NO_DRIVER,
    Machine,
    folder,
    frames,
    here,
    made,
    ort_maps,
)
from tests.little import write_little

__all__ = ["folder", "here", "made"]


def test_another_system(folder: Path, here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segformer_deploy.engine.here.this_system", lambda: "linux aarch64")
    with pytest.raises(MismatchError, match=r"built for .*, and this is linux aarch64"):
        load_engine(folder)
    assert here.loads == 0


def test_no_gpu_names_the_cpu_as_a_way_out(folder: Path, here: Machine) -> None:
    here.gpu(None)
    with pytest.raises(BackendError, match=NO_DRIVER) as caught:
        load_engine(folder)
    assert "compute capability 8.7" in caught.value.expected
    assert "--backend onnxruntime" in caught.value.next_step
    assert here.loads == 0


def test_no_library(folder: Path, here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="'tensorrt' is not installed") as caught:
        load_engine(folder)
    assert "[tensorrt]" in caught.value.next_step


@pytest.mark.parametrize("version", ["9.3.0", "12.0.0", ""])
def test_a_library_that_nobody_knows(
    version: str, folder: Path, here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here.api, "__version__", version)
    with pytest.raises(BackendError):
        load_engine(folder)
    assert here.loads == 0


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with wider plans, of the little network."""
    root = tmp_path_factory.mktemp("portable")
    little = write_little(root / "little.onnx")
    with pytest.MonkeyPatch.context() as patch:
        Machine(patch).build(little, root / "old", version_compatible=True)
        Machine(patch).build(little, root / "plus", hardware_compatible=True)
        Machine(patch, "10.16.2").build(little, root / "new", version_compatible=True)
    return root


@pytest.mark.parametrize(
    ("name", "version", "loads"),
    [
        ("old", "10.3.0", True),
        ("old", "10.16.2", True),
        ("old", "11.4.1", False),
        ("new", "10.16.2", True),
        ("new", "10.3.0", False),
        ("plus", "10.16.2", False),
    ],
)
def test_releases(
    name: str, version: str, loads: bool, portable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, version)
    if loads:
        Segmenter(portable / name).close()
    else:
        with pytest.raises(MismatchError, match=f"and {version} is installed") as caught:
            load_engine(portable / name)
        assert ("or a later one of the same" in caught.value.expected) == (name != "plus")
    assert machine.loads == int(loads)


@pytest.mark.parametrize("sm", ["8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0", "7.5", "7.2"])
def test_a_hardware_compatible_plan(
    sm: str, portable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, sm=sm)
    if sm.startswith("7"):
        with pytest.raises(MismatchError, match=r"8\.0 and later, and the fake GPU here has 7"):
            load_engine(portable / "plus")
    else:
        Segmenter(portable / "plus").close()
    assert machine.loads == int(not sm.startswith("7"))


# ---- what RTX says of a plan's first bytes -------------------------------------------------------

_DIAGNOSTICS = {
    "VERSION_MISMATCH": "another version of the library",
    "UNSUPPORTED_CC": "another compute capability",
    "OLD_CUDA_DRIVER": "driver is too old",
    "OLD_CUDA_RUNTIME": "CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "too little memory",
    "MALFORMED_ENGINE": "not those of a plan",
    "CUDA_ERROR": "CUDA fails",
}


def says(machine: Machine, validity: str, diagnostics: int) -> None:
    answer = machine.api.EngineValidity[validity], diagnostics
    machine.patch.setattr(machine.api.Runtime, "get_engine_validity", lambda *_: answer)


@pytest.mark.parametrize("name", [*_DIAGNOSTICS, ""])
def test_a_plan_that_rtx_finds_invalid(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", "8.9")
    kinds = machine.api.EngineInvalidityDiagnostics
    says(machine, "INVALID", int(kinds[name]) if name else 0)
    with pytest.raises(MismatchError) as caught:
        load_engine(made / "rtx")
    assert _DIAGNOSTICS.get(name, "does not say why") in caught.value.found
    assert caught.value.next_step.startswith("segdeploy build-engine ")
    assert machine.loads == 0


def test_a_plan_that_rtx_finds_suboptimal(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "1.7.1", "8.9")
    says(machine, "SUBOPTIMAL", int(machine.api.EngineInvalidityDiagnostics.UNSUPPORTED_CC))
    with Segmenter(made / "rtx") as segment:
        assert segment.note is not None
        assert "not at its best here: it was built for another compute" in segment.note
        found = [segment(frame) for frame in frames()]
    for one, other in zip(found, ort_maps(made / "a.onnx", frames()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rtx_on_a_gpu_below_its_default(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "1.7.1", "7.5")
    with pytest.raises(MismatchError, match=r"8\.0 and later") as caught:
        load_engine(made / "rtx")
    assert "--compute-capability 7.5" in caught.value.next_step
    assert machine.loads == 0


# ---- releases, as numbers ------------------------------------------------------------------------

_PARTS = st.tuples(
    st.sampled_from([10, 11]), st.integers(3, 16), st.integers(0, 2), st.integers(0, 40)
)


@given(built=_PARTS, installed=_PARTS, compatible=st.booleans(), four=st.booleans())
def test_which_release_loads_which(
    made: Path, built: tuple[int, ...], installed: tuple[int, ...], compatible: bool, four: bool
) -> None:
    manifest = check_folder(made / "little")
    assert manifest.plan is not None
    manifest = replace(
        manifest,
        # Wheels have three or four numbers; JetPack's module may say fewer than what built.
        backend_version=".".join(map(str, built)),
        plan=replace(manifest.plan, version_compatible=compatible),
    )
    here = installed if four else installed[:3]
    same = built[:3] == here[:3]
    later = compatible and built[0] == here[0] and built[:3] < here[:3]
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        patch.setattr(machine.api, "__version__", ".".join(map(str, here)))
        if same or later:
            check_plan_runs_here(made / "little", manifest)
            return
        with pytest.raises(MismatchError, match="is installed") as caught:
            check_plan_runs_here(made / "little", manifest)
        assert manifest.backend_version in caught.value.expected


@pytest.mark.parametrize("version", ["", "new", "10", "10.3"])
@pytest.mark.parametrize("compatible", [True, False])
def test_a_release_that_says_little(
    made: Path, here: Machine, version: str, compatible: bool
) -> None:
    manifest = check_folder(made / "little")
    assert manifest.plan is not None
    plan = replace(manifest.plan, version_compatible=compatible)
    manifest = replace(manifest, backend_version=version, plan=plan)
    try:
        check_plan_runs_here(made / "little", manifest)
    except MismatchError:
        return
    assert compatible
    assert version.startswith("10")


def test_the_system_is_the_kernels_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "AARCH64")
    assert this_system() == f"{sys.platform} aarch64"
