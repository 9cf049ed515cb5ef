"""One segmenter against another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.bench.compare import compare
from segformer_deploy.errors import InputError, MediaError
from tests.bench.fake_segmenters import FakeSegmenter, spec_of

FRAMES = [np.random.default_rng(n).integers(0, 3, (10, 20, 3)).astype(np.uint8) for n in range(7)]
PATHS = [Path(f"frame{n}.png") for n in range(7)]


def read(path: Path) -> np.ndarray:
    return FRAMES[PATHS.index(path)]


def blue(frame: np.ndarray) -> np.ndarray:
    return frame[..., 0].copy()


def spoiled(frame: np.ndarray) -> np.ndarray:
    """As `blue`, but frame n has its first n pixels at the next class."""
    number = next(n for n, own in enumerate(FRAMES) if own is frame)
    answer = blue(frame)
    answer.reshape(-1)[:number] = (answer.reshape(-1)[:number] + 1) % 3
    return answer


def test_equal_segmenters_agree() -> None:
    report = compare(FakeSegmenter(blue), FakeSegmenter(blue), PATHS, read=read)
    assert (report.agreement, report.miou, report.images, report.identical_images) == (
        1.0,
        100.0,
        7,
        7,
    )


def test_differences_are_counted() -> None:
    seen: list[int] = []
    report = compare(
        FakeSegmenter(blue), FakeSegmenter(spoiled), PATHS, on_image=seen.append, read=read
    )
    assert seen == list(range(1, 8))
    assert report.agreement == pytest.approx(1 - 21 / 1400)
    assert report.identical_images == 1
    assert [name for name, _ in report.worst] == [f"frame{n}.png" for n in (6, 5, 4, 3, 2)]
    assert [share for _, share in report.worst] == pytest.approx(
        [1 - n / 200 for n in range(6, 1, -1)]
    )
    a = np.concatenate([blue(frame).ravel() for frame in FRAMES])
    b = np.concatenate([spoiled(frame).ravel() for frame in FRAMES])
    iou = [100 * ((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in range(3)]
    assert list(report.per_class_iou.values()) == pytest.approx(iou)
    assert report.miou == pytest.approx(sum(iou) / 3)


def test_mixed_integer_types_compare_by_value() -> None:
    wide = FakeSegmenter(lambda frame: blue(frame).astype(np.int32))
    assert compare(FakeSegmenter(blue), wide, PATHS, read=read).agreement == 1.0


def test_json() -> None:
    report = compare(FakeSegmenter(blue), FakeSegmenter(spoiled), PATHS, read=read).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["worst"][0] == {"image": "frame6.png", "agreement": pytest.approx(0.97)}


def test_other_numbers_of_classes_are_refused() -> None:
    two, three = FakeSegmenter(blue, spec_of("a", "b")), FakeSegmenter(blue)
    with pytest.raises(InputError, match="A has 2 classes, B has 3"):
        compare(two, three, PATHS, read=read)
    assert two.calls == 0


def test_other_class_names_are_noted() -> None:
    renamed = FakeSegmenter(blue, spec_of("a", "b", "x"))
    assert compare(FakeSegmenter(blue), renamed, PATHS, read=read).notes
    assert compare(FakeSegmenter(blue), FakeSegmenter(blue), PATHS, read=read).notes == ()


def test_no_images() -> None:
    with pytest.raises(MediaError, match="no images"):
        compare(FakeSegmenter(blue), FakeSegmenter(blue), [], read=read)
