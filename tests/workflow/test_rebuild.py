"""A plan that is for another machine is built again here, as it was asked for."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.engine.here import rebuild_command
from segformer_deploy.engine.package import check_folder, load_engine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import (
    MismatchError,
)
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.plan import PlanRequest
from segformer_deploy.workflow.sizes import AskedSizes
from tests.engine.test_plan_folder import (
    Machine,
    folder,
    here,
    made,
    type_in,
)
from tests.little import little_spec, write_little
from tests.workflow.small import SIZE

__all__ = ["folder", "here", "made"]

# ---- the command that builds it again ------------------------------------------------------------

_NONE = ResizeRule("none", None)


def _size(text: str) -> FrameSize:
    return FrameSize.parse(text)


def _range(*sizes: str) -> SizeRange:
    low, usual, high = map(_size, sizes * 3 if len(sizes) == 1 else sizes)
    return SizeRange(low, usual, high)


REBUILDS: dict[str, tuple[ResizeRule, Any, dict[str, Any]]] = {
    "as it is": (ResizeRule.stretch_to(SIZE), AskedSizes(), {}),
    "every option": (
        ResizeRule.stretch_to(SIZE),
        AskedSizes(batch=3),
        {
            **dict.fromkeys(("hardware_compatible", "version_compatible", "refit", "tf32"), True),
            "aux_streams": 1,
            "workspace": 3 << 20,
            "level": 0,
        },
    ),
    "a range": (_NONE, AskedSizes(_size("96"), _size("64"), _size("128x160"), 2), {}),
    "profiles": (
        _NONE,
        AskedSizes(profiles=(_range("64x96", "96x96", "96x128"), _range("160x192"))),
        {},
    ),
    "stretched by --opt": (_NONE, AskedSizes(opt=_size("128x64")), {}),
    "stretched otherwise": (ResizeRule.stretch_to(SIZE), AskedSizes(opt=_size("128x64")), {}),
    "stretched, in a range": (
        ResizeRule.stretch_to(SIZE),
        AskedSizes(_size("96x64"), _size("64x64"), _size("128x128")),
        {},
    ),
    "the short side": (ResizeRule("short_side", None, 64, 128), AskedSizes(), {}),
}


def test_no_option_is_forgotten() -> None:
    names = {one.name for one in dataclasses.fields(PlanRequest)}
    assert set(REBUILDS["every option"][2]) == names - {"capabilities"}


@pytest.mark.parametrize("case", REBUILDS)
def test_the_command_in_the_error_builds_what_was_asked_for(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, sizes, request = REBUILDS[case]
    onnx = write_little(tmp_path / "m o.onnx", little_spec(resize=rule))
    folder = Machine(monkeypatch).build(onnx, tmp_path / "the engine", sizes=sizes, **request)
    before = check_folder(folder)
    machine = Machine(monkeypatch, "11.4.1", "8.7")
    with pytest.raises(MismatchError) as caught:
        load_engine(folder)
    assert type_in(monkeypatch, caught.value.next_step) == 0
    after = check_folder(folder)
    assert after.backend_version == "11.4.1"
    assert after.spec == before.spec
    assert after.sizes == before.sizes
    assert after.plan is not None
    assert before.plan is not None
    assert after.plan.profiles == before.plan.profiles
    assert after.plan.options == before.plan.options
    assert after.plan.options == request
    assert (after.golden, after.source_sha256) == (before.golden, before.source_sha256)
    machine.loads = 0
    Segmenter(folder).close()
    assert machine.loads == 1


def test_the_command_names_a_gpu_that_must_be_named(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(made / "rtx", tmp_path / "rtx"))
    Machine(monkeypatch, "1.7.1", "7.5")
    with pytest.raises(MismatchError) as caught:
        load_engine(folder)
    assert type_in(monkeypatch, caught.value.next_step) == 0
    with Segmenter(folder):
        assert check_folder(folder).plan.runs_on == ("7.5",)  # type: ignore[union-attr]


def test_the_command_is_one_that_a_shell_takes_apart_again(made: Path, here: Machine) -> None:
    manifest = check_folder(made / "a")
    odd = Path("/a b/$(reboot); 'x'")
    words = shlex.split(rebuild_command(odd, manifest))
    assert words[2] == str(odd / "model.onnx")
    assert words[-1] == str(odd)
