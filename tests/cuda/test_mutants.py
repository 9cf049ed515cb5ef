"""The tests of the kernels notice a kernel that is not quite ours."""

from __future__ import annotations

import re

import pytest

from segformer_deploy.cuda.compiled import FOLDER
from tests.cuda.kernel_machines import InterpretedPtx
from tests.cuda.mutants import CHECKS, Mutant, mutants, noticed
from tests.cuda.ptx_text import PtxError

PTX = (FOLDER / "compute_75.ptx").read_text()
# Changes that can leave every answer as it was: whether a bound is met or passed, the sign of
# what is never negative, the rounding of what is whole, an offset of 2^24 that a byte drops.
HARMLESS = re.compile(r"setp\.(lt|le|gt|ge|geu|gtu)\.|shr\.s32|cvt\.rzi|add\.rn.* 0f4B000000;")


@pytest.fixture(autouse=True, scope="module")
def _unchanged() -> None:
    """The kernels as they are, first: what they read is what a changed one may read."""
    for check in CHECKS.values():
        assert check(InterpretedPtx(PTX))


def one(kernel: str, line: str, text: str) -> Mutant:
    """The first mutant of this kernel whose line matches."""
    return next(
        each for each in mutants(PTX, kernel) if re.search(line, each.line) and each.text == text
    )


def test_a_missing_barrier_is_a_race() -> None:
    mutant = one("class_map", r"bar\.sync", "")
    with pytest.raises(PtxError, match=r"class_map: ld\.shared\.\w+ .*: thread .* in a race"):
        CHECKS["class_map"](InterpretedPtx(PTX, edit=mutant))


def test_the_first_of_equals_wins() -> None:
    assert noticed(PTX, one("class_map", r"setp\.gtu\.f32", "setp.geu"), CHECKS["class_map"])


def test_a_byte_beyond_the_output() -> None:
    def beyond(ptx: str) -> str:
        at = ptx.index(".entry overlay(")
        return ptx[:at] + re.sub(r"(st\.global\.u8 \s*\[%rd\d+)\+2\]", r"\1+3]", ptx[at:], count=1)

    with pytest.raises(PtxError, match=r"overlay: st\.global\.u8 .*(lies outside|in a race)"):
        CHECKS["overlay"](InterpretedPtx(PTX, edit=beyond))


@pytest.mark.parametrize("kernel", CHECKS)
def test_some_changes_are_noticed(kernel: str) -> None:
    real = [each for each in mutants(PTX, kernel) if not HARMLESS.search(each.line)]
    for mutant in real[:: max(1, len(real) // 4)]:
        assert noticed(PTX, mutant, CHECKS[kernel]), mutant.line


@pytest.mark.slow
@pytest.mark.parametrize("kernel", CHECKS)
def test_all_changes_are_noticed(kernel: str) -> None:
    every = list(mutants(PTX, kernel))
    survivors = [each.line for each in every if not noticed(PTX, each, CHECKS[kernel])]
    assert [line for line in survivors if not HARMLESS.search(line)] == []
    assert len(survivors) <= len(every) / 4
