"""Manifests that someone sealed again: the seal is no signature, and vouches for no field."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.engine.manifest import FileRecord
from segformer_deploy.engine.package import check_folder, load_engine
from segformer_deploy.engine.plan_facts import PlanFacts, number, plan_facts_from_dict
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import (
    BackendError,
    EngineError,
    EngineFolderError,
    MismatchError,
    SegdeployError,
)
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.plan import PlanRequest
from tests.engine.test_plan_folder import (
    Machine,
    folder,
    here,
    leaves,
    made,
    manifest_of,
    put,
    sealed,
)

__all__ = ["folder", "here", "made"]


_NASTY: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, 0, -1, 1, 5, 10**30, -0.5, float("inf"), float("nan"), True, False),
        *("", "x", "8.7", "8", "8.x", "8.7+", "64x96", "0x0", "10", "10.3.0", "\ud800", "a\0b"),
        *("../engine", "/etc/passwd", "model.onnx", "n" * 5000, "fp16", "tensorrt-rtx", "native"),
        *([], {}, [[]], [None], ["x"], [["x", "y"]], {"x": 1}, {"refit": True}, {"level": "3"}),
        ...,
    ]
)


def attempt(folder: Path) -> SegdeployError | None:
    """Load the folder and have it check itself; only our errors come back, others are raised."""
    try:
        Segmenter(folder).close()
    except SegdeployError as error:
        return error
    return None


@settings(max_examples=150)
@given(data=st.data())
def test_a_manifest_sealed_again_is_refused_or_loads(made: Path, data: st.DataObject) -> None:
    manifest = manifest_of(made / "little")
    paths = [one for one in leaves(manifest) if one[0] not in ("seal", "format")]
    # As often in the plan's facts as elsewhere.
    paths = data.draw(st.sampled_from([paths, [one for one in paths if one[0] == "plan"]]))
    path, value = data.draw(st.sampled_from(paths)), data.draw(_NASTY)
    put(manifest, path, value)
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        folder = Path(shutil.copytree(made / "little", Path(temporary) / "e"))
        sealed(folder, manifest)
        Machine(patch)
        error = attempt(folder)
        if isinstance(error, MismatchError):
            assert "build-engine" in shlex.split(error.next_step)
        elif error is not None and not isinstance(error, EngineError):
            # It reads, and what it says is not so: other masks, sizes that do not fit.
            check_folder(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "runs_on"), ["abc"]),
        (("plan", "runs_on"), []),
        (("plan", "runs_on"), "8.7"),
        (("plan", "profiles"), []),
        (("plan", "profiles"), [{"min": "9x9", "opt": "8x8", "max": "7x7", "batch": 1}]),
        (("plan", "profiles"), [{"min": "64", "opt": "64", "max": "64", "batch": 0}]),
        (("plan", "profiles"), [{"min": "64", "opt": "64", "max": "64", "batch": "1"}]),
        (("plan", "profiles"), [{"min": 64, "opt": 64, "max": 64, "batch": 1}]),
        (("plan", "options"), {"format_disk": True}),
        (("plan", "options"), {"output": "/"}),
        (("plan", "options"), {"workspace": "256M"}),
        (("plan", "options"), {"refit": 1}),
        (("plan", "options"), [[1, 2]]),
        (("plan", "activation_memory_bytes"), float("inf")),
        (("plan", "seconds"), "soon"),
        (("plan", "system"), ...),
        (("plan",), ["no facts"]),
        (("plan",), None),
        (("sizes",), {"min": "64", "opt": "32", "max": "64", "batch": 1}),
        (("spec",), {}),
        (("spec", "palette"), []),
        (("backend_version",), ""),
        (("backend_version",), ["10.3.0"]),
        (("delivered",), "fp8"),
        (("min_agreement",), float("nan")),
        (("min_agreement",), "all"),
        (("notes",), [1]),
        (("engine_files",), ["../a/model.plan"]),
        (("golden",), [["../a.png", "/etc/passwd"]]),
    ],
)
def test_a_strange_field_is_an_error_of_the_folder(
    path: tuple[str, ...], value: Any, folder: Path, here: Machine
) -> None:
    manifest = manifest_of(folder)
    put(manifest, path, value)
    sealed(folder, manifest)
    with pytest.raises(EngineFolderError) as caught:
        load_engine(folder)
    assert not isinstance(caught.value, MismatchError)
    assert here.loads == 0


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"format": 1e999}', "\udc80", "null"])
def test_a_manifest_that_is_no_manifest(text: str, folder: Path, here: Machine) -> None:
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EngineFolderError):
        load_engine(folder)
    assert here.loads == 0


def test_a_stump_that_someone_sealed_is_left_to_the_library(folder: Path, here: Machine) -> None:
    """What all checks let through the library refuses; that is an error too, and no crash."""
    plan = folder / "model.plan"
    plan.write_bytes(plan.read_bytes()[:10])
    manifest = manifest_of(folder)
    manifest["files"]["model.plan"] = FileRecord.of(plan).to_dict()
    sealed(folder, manifest)
    with pytest.raises(BackendError, match="refuses the plan"):
        load_engine(folder)
    assert here.loads == 1
    assert all(driver.closed for driver in here.world.drivers)


# ---- the facts themselves ------------------------------------------------------------------------


def facts(**changes: Any) -> PlanFacts:
    values: dict[str, Any] = {
        "runs_on": ("8.7",),
        "system": "linux x86_64",
        "version_compatible": False,
        "profiles": (SizeRange(FrameSize(64, 64), FrameSize(96, 64), FrameSize(96, 128), 2),),
        "activation_memory_bytes": 1,
        "weights_memory_bytes": 2,
        "peak_device_bytes": 3,
    }
    return PlanFacts(**{**values, **changes})


def test_facts_survive_json() -> None:
    one = facts(
        runs_on=("7.5", "8.0+"),
        bypassed=("a.b",),
        options={"refit": True, "workspace": 1 << 40, "level": 0},
        layers=4,
        seconds=0.5,
    )
    assert plan_facts_from_dict(json.loads(json.dumps(one.to_dict()))) == one


_SM = st.tuples(st.integers(5, 13), st.integers(0, 9))


@given(here=_SM, built=_SM, later=st.booleans())
def test_a_capability_with_a_plus_is_a_floor(
    here: tuple[int, int], built: tuple[int, int], later: bool
) -> None:
    def text(sm: tuple[int, int]) -> str:
        return f"{sm[0]}.{sm[1]}"

    runs_on = ("5.0", text(built) + "+" * later)
    expected = here == (5, 0) or (here >= built if later else here == built)
    assert facts(runs_on=runs_on).runs_on_capability(text(here)) == expected


@pytest.mark.parametrize("text", ["", "8", "8.7.1", "8.x", "+", "8.7++", "sm87"])
def test_what_is_no_capability(text: str) -> None:
    with pytest.raises(ValueError):
        number(text)
    with pytest.raises(ValueError):
        plan_facts_from_dict({**facts().to_dict(), "runs_on": [text]})


def test_every_option_of_a_plan_can_be_read_again() -> None:
    """An option that a manifest cannot hold would make folders that nobody can load."""
    for one in fields(PlanRequest):
        if one.name != "capabilities":
            value: Any = True if one.default is False else 3
            options = replace(PlanRequest(), **{one.name: value}).portable()
            assert options == {one.name: value}
            assert plan_facts_from_dict(facts(options=options).to_dict()).options == options
    assert PlanRequest(("8.6",)).portable() == {}
