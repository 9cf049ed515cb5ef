"""Kernels with one instruction changed: does anything notice?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from segformer_deploy.runtime import resample
from segformer_deploy.runtime.class_map import class_map_from_logits, confidence_from_logits
from segformer_deploy.spec import FrameSize
from tests.cuda import kernel_calls
from tests.cuda.kernel_machines import InterpretedPtx, Machine
from tests.cuda.ptx_text import PtxError

Array = Any
CHANGES = (
    (r"setp\.eq\b", "setp.ne"),
    (r"setp\.ne\b", "setp.eq"),
    (r"setp\.lt\b", "setp.le"),
    (r"setp\.le\b", "setp.lt"),
    (r"setp\.gt\b", "setp.ge"),
    (r"setp\.ge\b", "setp.gt"),
    (r"setp\.gtu\b", "setp.geu"),
    (r"setp\.geu\b", "setp.gtu"),
    (r"setp\.num\b", "setp.nan"),
    (r"add\.rn", "sub.rn"),
    (r"sub\.rn", "add.rn"),
    (r"mul\.rn", "add.rn"),
    (r"\bmin\.", "max."),
    (r"\bmax\.", "min."),
    (r"shr\.s32", "shr.u32"),
    (r"bar\.sync[^;]*;", ""),
    (r"cvt\.rzi", "cvt.rpi"),
    (r"or\.pred", "and.pred"),
    (r"and\.pred", "or.pred"),
)


@dataclass(frozen=True)
class Mutant:
    """One place of a module's text, changed."""

    start: int
    end: int
    text: str
    line: str

    def __call__(self, ptx: str) -> str:
        return ptx[: self.start] + self.text + ptx[self.end :]


def mutants(ptx: str, kernel: str) -> Iterator[Mutant]:
    """Each instruction of one kernel that `CHANGES` knows, changed; and each selp turned round."""
    start = ptx.index(f".entry {kernel}(")
    end = ptx.index("\n}\n", start)
    for pattern, text in CHANGES:
        for found in re.compile(pattern).finditer(ptx, start, end):
            yield Mutant(found.start(), found.end(), text, f"{_line(ptx, found.start())} -> {text}")
    for found in re.compile(r"(selp\S+\s+\S+, )(\S+), (\S+), ").finditer(ptx, start, end):
        text = f"{found[1]}{found[3]}, {found[2]}, "
        yield Mutant(found.start(), found.end(), text, f"{_line(ptx, found.start())} -> turned")


def _line(ptx: str, at: int) -> str:
    number = ptx.count("\n", 0, at)
    return f"{number + 1}: {ptx.splitlines()[number].strip()}"


def noticed(ptx: str, mutant: Callable[[str], str], check: Callable[[Machine], bool]) -> bool:
    """Whether the changed kernel is refused by the interpreter, or gives something else, or reads
    more logits for the same answer."""
    machine = InterpretedPtx(ptx, edit=mutant)
    try:
        return not check(machine)
    except PtxError:
        return True


def logits_of(kind: str, classes: int, dtype: str = "float32") -> Array:
    rng = np.random.default_rng(len(kind))
    shape = (2, classes, 5, 34)
    logits = rng.normal(size=shape)
    if kind == "smooth":
        logits = logits.cumsum(2).cumsum(3) / 4
    if kind == "ties":
        logits = np.round(logits / 2)
    if kind == "full":
        logits = 1 + np.arange(classes)[:, None, None] * 2.0**-20 + logits * 2.0**-22
    if kind == "margin":
        # Corners apart by about the margin on either side, or by exactly nothing.
        logits = 1 + rng.integers(-12, 13, shape) * 2.0**-24
    if kind == "not finite":
        logits[rng.random(shape) < 0.02] = np.nan
        logits[rng.random(shape) < 0.02] = np.inf
        logits[rng.random(shape) < 0.02] = -np.inf
    return np.ascontiguousarray(logits, dtype)


CASES = (
    *(("smooth", 9, "float16"), ("noise", 14, "float32"), ("ties", 6, "float32")),
    *(("full", 12, "float32"), ("margin", 11, "float32"), ("not finite", 5, "float32")),
    ("ties", 258, "float16"),
)
_SIZE = (14, 71)
_EXPECTED: dict[Any, Array] = {}
_LOADS: dict[Any, int] = {}


def _expected(key: Any, make: Callable[[], Array]) -> Array:
    if key not in _EXPECTED:
        with np.errstate(all="ignore"):
            _EXPECTED[key] = make()
    return _EXPECTED[key]


def class_maps_are_right(machine: Machine) -> bool:
    for case in CASES:
        logits = logits_of(*case)
        if case[1] > 200:
            logits = np.ascontiguousarray(logits[:1, :, :, :4])

        def on_cpu(logits: Array = logits) -> Array:
            return np.stack([class_map_from_logits(one, FrameSize(*_SIZE)) for one in logits])

        expected = _expected(case, on_cpu)
        for prune in (True, False):
            if not np.array_equal(kernel_calls.class_map(machine, logits, _SIZE, prune), expected):
                return False
            if isinstance(machine, InterpretedPtx):
                # The first one to come here is the kernel as it is.
                usual = _LOADS.setdefault((case, prune), machine.loads["logits"])
                if machine.loads["logits"] > usual:
                    return False
    return True


def confidences_are_right(machine: Machine) -> bool:
    for case in (*CASES[:3], CASES[6]):
        logits = np.ascontiguousarray(logits_of(*case)[..., :4])
        logits[:, 0] -= 100 * (case[0] == "noise")
        logits[:, 1] += 100 * (case[0] == "ties")
        size = (9, 13)
        maps = np.random.default_rng(0).integers(0, case[1], (2, *size))
        maps = maps.astype(np.uint8 if case[1] <= 256 else np.int32)

        def on_cpu(logits: Array = logits, maps: Array = maps) -> Array:
            pairs = zip(logits, maps, strict=True)
            return np.stack([confidence_from_logits(one, each) for one, each in pairs])

        expected = _expected(("confidence", case), on_cpu)
        if not np.array_equal(kernel_calls.confidence(machine, logits, maps), expected):
            return False
    return True


def frames_are_right(machine: Machine) -> bool:
    rng = np.random.default_rng(0)
    source = rng.choice([0, 3, 100, 255], (34, 140, 3)).astype(np.uint8)
    planes = rng.choice([0, 16, 90, 255], (51, 140)).astype(np.uint8)
    rgb = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12)
    for how, given, picture in (("bgr", source, source[..., ::-1]), ("rgb", source, source),
                                ("nv12", planes, rgb)):  # fmt: skip
        for size in ((34, 140), (40, 150), (16, 131), (9, 140)):
            expected = resample.resize(np.ascontiguousarray(picture), *size, "bicubic")
            found = kernel_calls.resize(machine, given, size, "bicubic", how)
            if not np.array_equal(found, expected):
                return False
        expected = cv2.resize(picture, (37, 53))
        if not np.array_equal(kernel_calls.bilinear(machine, given, (53, 37), how), expected):
            return False
    return True


def overlays_are_right(machine: Machine) -> bool:
    rng = np.random.default_rng(0)
    source = rng.choice([0, 3, 100, 255], (7, 40, 3)).astype(np.uint8)
    palette = rng.choice([0, 3, 101, 255], (6, 3)).astype(np.uint8)
    for dtype in (np.uint8, np.int32):
        classes = rng.integers(-2 if dtype == np.int32 else 0, 8, (7, 40)).astype(dtype)
        colours = palette[np.where((classes < 0) | (classes > 5), 5, classes)]
        expected = cv2.addWeighted(source, 0.5, colours, 0.5, 0.0)
        if not np.array_equal(
            kernel_calls.overlay(machine, source, classes, palette, 0.5), expected
        ):
            return False
    return True


CHECKS: dict[str, Callable[[Machine], bool]] = {
    "class_map": class_maps_are_right,
    "confidence": confidences_are_right,
    "overlay": overlays_are_right,
    **dict.fromkeys(("resample_columns", "resample_rows", "resample_bilinear"), frames_are_right),
}
"""By kernel."""
