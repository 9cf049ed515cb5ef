"""The report's count of bytes against the loads and stores of the interpreted kernels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.compiled import FOLDER, shipped
from segformer_deploy.runtime.resample import vertical_first
from tests.cuda import kernel_calls
from tests.cuda.counted import CountedPtx, Moved
from tests.cuda.nvrtc import newest_ptx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import kernel_bytes  # noqa: E402
import kernel_report  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS = [
    # classes, logits, class map, FP16: whole tiles, a part of one, three by two, int32 maps
    (3, (16, 32), (40, 70), True),
    (5, (9, 20), (31, 64), False),
    (2, (35, 80), (70, 161), True),
    (258, (5, 6), (10, 13), True),
]
FRAMES = [
    # rows first, columns first, one axis alone, a larger picture, no change
    *(((62, 150), (20, 140)), ((40, 300), (31, 150)), ((20, 150), (20, 33))),
    *(((60, 140), (21, 140)), ((14, 30), (33, 140)), ((12, 130), (12, 130))),
]


@pytest.fixture(params=["shipped PTX", "newest PTX"])
def counted(request: pytest.FixtureRequest) -> CountedPtx:
    shipped_one = request.param == "shipped PTX"
    return CountedPtx((FOLDER / "compute_75.ptx").read_text() if shipped_one else newest_ptx())


def logits_of(classes: int, size: tuple[int, int], half: bool) -> Any:
    logits = RNG.normal(size=(1, classes, *size))
    return logits.astype(np.float16 if half else np.float32)


def same(found: Moved, model: kernel_bytes.Bytes) -> bool:
    return (found.once, found.per_block, found.written) == (
        model.once,
        model.per_block,
        model.written,
    )


@pytest.mark.parametrize(("classes", "logits", "size", "half"), LOGITS)
def test_class_map(counted: CountedPtx, classes: int, logits: Any, size: Any, half: bool) -> None:
    """Without candidates every pixel reads all that it may: to the byte."""
    kernel_calls.class_map(counted, logits_of(classes, logits, half), size, prune=False)
    model = kernel_bytes.class_map(classes, logits, size, 2 if half else 4)
    assert same(counted.moved(), model), (counted.moved(), model)


@pytest.mark.parametrize(("classes", "logits", "size", "half"), LOGITS)
def test_candidates_read_every_logit_once(
    counted: CountedPtx, classes: int, logits: Any, size: Any, half: bool
) -> None:
    """With candidates the same logits are read; of the tables, what undecided pixels need."""
    kernel_calls.class_map(counted, logits_of(classes, logits, half), size)
    model = kernel_bytes.class_map(classes, logits, size, 2 if half else 4)
    without = kernel_bytes.class_map(0, logits, size, 2 if half else 4)
    found, all_of_it = counted.moved("logits"), counted.moved()
    assert found.per_block == model.per_block - without.per_block
    assert found.once == model.once - without.once
    assert found.per_block < all_of_it.per_block <= model.per_block


@pytest.mark.parametrize(("columns", "half"), [(32, True), (80, True), (40, False)])
def test_sectors_of_the_class_map(counted: CountedPtx, columns: int, half: bool) -> None:
    kernel_calls.class_map(counted, logits_of(3, (18, columns), half), (40, 2 * columns))
    model = kernel_bytes.class_map_sectors(3, (18, columns), 2 if half else 4)
    assert counted.moved("logits").sectors == model


@pytest.mark.parametrize(("classes", "logits", "size", "half"), LOGITS)
def test_confidence(counted: CountedPtx, classes: int, logits: Any, size: Any, half: bool) -> None:
    maps = np.zeros((1, *size), np.uint8 if classes <= 256 else np.int32)
    kernel_calls.confidence(counted, logits_of(classes, logits, half), maps)
    model = kernel_bytes.confidence(classes, logits, size, 2 if half else 4)
    assert same(counted.moved(), model), (counted.moved(), model)


@pytest.mark.parametrize("nv12", [False, True])
@pytest.mark.parametrize(("frame", "size"), FRAMES)
@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
def test_resize(counted: CountedPtx, frame: Any, size: Any, filter: Any, nv12: bool) -> None:
    model = kernel_bytes.resize(frame, size, filter, nv12)
    kernel_calls.resize(counted, picture(frame, nv12), size, filter, "nv12" if nv12 else "bgr")
    assert same(counted.moved(), model), (counted.moved(), model)


@pytest.mark.parametrize("nv12", [False, True])
@pytest.mark.parametrize(("frame", "size"), FRAMES)
def test_bilinear(counted: CountedPtx, frame: Any, size: Any, nv12: bool) -> None:
    model = kernel_bytes.bilinear(frame, size, nv12)
    kernel_calls.bilinear(counted, picture(frame, nv12), size, "nv12" if nv12 else "bgr")
    assert same(counted.moved(), model), (counted.moved(), model)


def picture(size: tuple[int, int], nv12: bool) -> Any:
    shape = (size[0] * 3 // 2, size[1]) if nv12 else (*size, 3)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_both_orders_of_the_axes_are_among_the_frames() -> None:
    assert {vertical_first(*frame, *size) for frame, size in FRAMES} == {True, False}


def test_overlay(counted: CountedPtx) -> None:
    """Every colour in every block: the most that the palette can cost."""
    classes = np.resize(np.arange(6, dtype=np.uint8), (24, 50))
    palette = RNG.integers(0, 256, (6, 3), dtype=np.uint8)
    kernel_calls.overlay(counted, picture((24, 50), False), classes, palette, 0.5)
    model = kernel_bytes.overlay(5, (24, 50))
    assert same(counted.moved(), model), (counted.moved(), model)


def test_the_usual_way_moves_all_upsampled_logits_twice() -> None:
    assert kernel_bytes.usual(150, (128, 128), (512, 512), 2).to_dict() == {
        "read_once": 150 * (128**2 + 512**2) * 2,
        "read_per_block": 150 * (128**2 + 512**2) * 2,
        "written": 150 * 512**2 * 2 + 512**2,
        "moved": 150 * (128**2 + 2 * 512**2) * 2 + 512**2,
    }


# ---- the report ----------------------------------------------------------------------------


def test_the_published_report_is_of_these_kernels() -> None:
    published = json.loads(kernel_report.RESULT.read_text())
    assert published["bytes"] == kernel_report.moved()
    assert published["sources_sha256"] == kernel_report.read_index()["sources_sha256"]
    images = {one.architecture: one for one in shipped() if one.kind == "cubin"}
    assert set(published["kernels"]) == set(images)
    for name, image in images.items():
        one = published["kernels"][name]
        assert (one["compiler"], one["kernels"]) == (image.compiler, image.kernels)


def test_the_published_report_keeps_its_promises() -> None:
    published = json.loads(kernel_report.RESULT.read_text())
    assert kernel_report.broken(published) == []
    first = published["bytes"]["512x512, 150 classes, FP16"]
    assert first["class_map"]["moved"] <= 6e6 < 150e6 <= first["usual"]["moved"]
    first["class_map"]["moved"] = 7_000_000
    published["kernels"]["sm_87"]["kernels"]["class_map"]["spill_loads"] = 4
    found = kernel_report.broken(published)
    assert [text.partition(":")[0] for text in found] == ["sm_87 class_map", "class map"]


def test_the_page_shows_the_published_report() -> None:
    page = (ROOT / "docs" / "gpu-kernels.md").read_text()
    for line in kernel_report.tables(json.loads(kernel_report.RESULT.read_text())):
        assert line in page, line
