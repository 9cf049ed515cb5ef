"""Scores against a count with sets of pixels, and a whole evaluation of files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segformer_deploy.bench.accuracy import ConfusionMatrix, class_keys, evaluate
from segformer_deploy.bench.boundary import boundary_f
from segformer_deploy.bench.labels import Pair, Pairing, pair_files
from segformer_deploy.errors import MediaError, RunError
from tests.bench.fake_segmenters import FakeSegmenter, spec_of

CLASSES = 4
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def images(draw: st.DrawFn) -> list[Triple]:
    """Up to three images: prediction, label, valid; some classes occur nowhere."""
    some = st.sampled_from(sorted(draw(st.sets(st.integers(0, CLASSES - 1), min_size=1))))
    result = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        maps = hnp.arrays(np.uint8, shape, elements=some)
        result.append((draw(maps), draw(maps), draw(hnp.arrays(np.bool_, shape))))
    return result


def pixel_sets(data: list[Triple], which: int, index: int) -> set[tuple[int, int, int]]:
    """(image, row, column) of the valid pixels of class `index`."""
    return {
        (number, y, x)
        for number, triple in enumerate(data)
        for y, x in np.ndindex(triple[2].shape)
        if triple[2][y, x] and triple[which][y, x] == index
    }


@given(images())
def test_scores_are_those_of_pixel_sets(data: list[Triple]) -> None:
    confusion = ConfusionMatrix(CLASSES)
    for prediction, label, valid in data:
        confusion.update(prediction, label, valid)
    guess = [pixel_sets(data, 0, index) for index in range(CLASSES)]
    truth = [pixel_sets(data, 1, index) for index in range(CLASSES)]
    both = [a & b for a, b in zip(guess, truth, strict=True)]
    iou = [len(a & b) / len(a | b) if a | b else None for a, b in zip(guess, truth, strict=True)]
    known = [value for value in iou if value is not None]
    pixels = sum(map(len, truth))
    assert confusion.pixels == pixels
    assert confusion.per_class_iou == pytest.approx(iou)
    assert confusion.miou == (pytest.approx(sum(known) / len(known)) if known else None)
    assert confusion.pixel_accuracy == (
        pytest.approx(sum(map(len, both)) / pixels) if pixels else None
    )
    recalls = [len(b) / len(t) for b, t in zip(both, truth, strict=True) if t]
    assert confusion.mean_class_accuracy == (
        pytest.approx(sum(recalls) / len(recalls)) if recalls else None
    )


@given(images())
def test_the_matrix_counts_pairs(data: list[Triple]) -> None:
    confusion = ConfusionMatrix(CLASSES)
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for prediction, label, valid in data:
        confusion.update(prediction, label, valid)
        np.add.at(expected, (label[valid], prediction[valid]), 1)
    np.testing.assert_array_equal(confusion.counts, expected)
    assert confusion.counts.dtype == np.int64


def test_absent_classes_are_left_out_and_invented_ones_are_not() -> None:
    confusion = ConfusionMatrix(4)
    confusion.update(np.array([[0, 0, 1, 2]]), np.array([[0, 0, 1, 1]]))
    assert confusion.per_class_iou == [1.0, 0.5, 0.0, None]
    assert confusion.miou == pytest.approx(0.5)
    assert confusion.mean_class_accuracy == pytest.approx(0.75)


def test_the_data_set_counts_as_a_whole_not_image_by_image() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0, 0]]), np.array([[0, 0]]))
    confusion.update(np.array([[1]]), np.array([[0]]))
    assert confusion.per_class_iou == [pytest.approx(2 / 3), 0.0]


def test_counts_do_not_overflow_small_types() -> None:
    # Pairs of 150 classes reach 22499: no uint8 arithmetic may happen on the way.
    values = np.full((20, 20), 149, np.uint8)
    confusion = ConfusionMatrix(150)
    for _ in range(3):
        confusion.update(values, values)
    assert confusion.counts[149, 149] == 1200
    assert confusion.pixels == 1200


def test_maps_that_do_not_fit() -> None:
    confusion = ConfusionMatrix(3)
    label = np.zeros((2, 2), np.int64)
    with pytest.raises(RunError, match="class indices 3 to 3"):
        confusion.update(np.full((2, 2), 3, np.uint8), label)
    with pytest.raises(RunError, match="shape"):
        confusion.update(np.zeros((2, 3), np.uint8), label)
    # Where the label is void, whatever was predicted is of no interest.
    confusion.update(np.full((2, 2), 3, np.uint8), label, np.zeros((2, 2), bool))
    assert confusion.miou is None


def test_class_names_that_occur_twice_stay_apart() -> None:
    assert class_keys(spec_of("a", "b", "a")) == ["a (0)", "b", "a (2)"]


@pytest.fixture
def data_set(tmp_path: Path) -> tuple[Path, Path]:
    """Three frames whose blue channel is the class map to predict, and their labels."""
    rng = np.random.default_rng(5)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(3):
        label = cv2.resize(
            rng.integers(0, 3, (4, 6)).astype(np.uint8), (48, 32), interpolation=cv2.INTER_NEAREST
        )
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[..., 0] = np.roll(label, number, axis=1)
        label[:3] = 11
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), frame)
        cv2.imwrite(str(tmp_path / "labels" / f"{number}.png"), label)
    return tmp_path / "images", tmp_path / "labels"


def blue(frame: np.ndarray) -> np.ndarray:
    return frame[..., 0].copy()


def test_evaluation_of_files(data_set: tuple[Path, Path]) -> None:
    spec = spec_of("a", "b", "c", "d")
    seen: list[int] = []
    pairs = pair_files(*data_set)
    report = evaluate(FakeSegmenter(blue, spec), spec, pairs, on_image=seen.append)
    assert seen == [1, 2, 3]
    guesses = [cv2.imread(str(p.image))[..., 0].astype(int) for p in pairs]
    truths = [cv2.imread(str(p.label), cv2.IMREAD_GRAYSCALE).astype(int) for p in pairs]
    valid = [truth != 11 for truth in truths]
    iou = []
    for index in range(3):
        hits = sum(
            ((g == index) & (t == index) & v).sum()
            for g, t, v in zip(guesses, truths, valid, strict=True)
        )
        union = sum(
            (((g == index) | (t == index)) & v).sum()
            for g, t, v in zip(guesses, truths, valid, strict=True)
        )
        iou.append(100 * hits / union)
    right = sum(((g == t) & v).sum() for g, t, v in zip(guesses, truths, valid, strict=True))
    assert list(report.per_class_iou) == ["a", "b", "c", "d"]
    assert list(report.per_class_iou.values()) == pytest.approx([*iou, None])
    assert report.miou == pytest.approx(sum(iou) / 3)
    assert report.pixel_accuracy == pytest.approx(100 * right / (3 * 29 * 48))
    assert report.void_share == pytest.approx(3 / 32)
    assert (report.images, report.resized_labels, report.notes) == (3, 0, ())


def test_boundary_scores_are_means_over_the_images_with_the_class(
    data_set: tuple[Path, Path],
) -> None:
    spec = spec_of("a", "b", "c", "d")
    pairs = pair_files(*data_set)
    report = evaluate(FakeSegmenter(blue), spec, pairs)
    scores = []
    for pair in pairs:
        truth = cv2.imread(str(pair.label), cv2.IMREAD_GRAYSCALE)
        guess = cv2.imread(str(pair.image))[..., 0]
        scores.append(boundary_f(guess, truth, 4, valid=truth != 11))
    expected = [100 * float(np.nanmean(column)) for column in np.array(scores).T[:3]]
    assert report.boundary_f is not None
    assert list(report.boundary_f.values()) == pytest.approx([*expected, None])
    assert report.mean_boundary_f == pytest.approx(np.mean(expected))
    assert (report.tolerance, report.tolerance_px) == (0.0075, (1, 1))
    # Nothing but a shift by one and two pixels was wrong, and one is within the tolerance.
    assert 50 < report.mean_boundary_f < 100


def test_without_boundary_and_json(data_set: tuple[Path, Path]) -> None:
    spec = spec_of("a", "b", "c")
    pairs = pair_files(*data_set)
    report = evaluate(FakeSegmenter(blue), spec, pairs, boundary=False).to_dict()
    for key in ("boundary_f", "mean_boundary_f", "tolerance", "tolerance_px"):
        assert report[key] is None
    whole = evaluate(FakeSegmenter(blue), spec, pairs).to_dict()
    for result in (report, whole):
        assert json.loads(json.dumps(result)) == result
    assert {key: whole[key] for key in ("miou", "pixel_accuracy", "images")} == {
        key: report[key] for key in ("miou", "pixel_accuracy", "images")
    }


def test_labels_of_another_size_are_resized_and_counted(data_set: tuple[Path, Path]) -> None:
    spec = spec_of("a", "b", "c")
    pairs = pair_files(*data_set)
    before = evaluate(FakeSegmenter(blue), spec, pairs)
    # Doubling every pixel and taking the nearest gives the label back.
    twice = cv2.imread(str(pairs.pairs[0].label), cv2.IMREAD_GRAYSCALE).repeat(2, 0).repeat(2, 1)
    cv2.imwrite(str(pairs.pairs[0].label), twice)
    after = evaluate(FakeSegmenter(blue), spec, pairs)
    assert after.miou == before.miou
    assert after.resized_labels == 1
    assert len(after.notes) == 1
    cv2.imwrite(str(pairs.pairs[0].label), twice.T)
    assert any("aspect" in note for note in evaluate(FakeSegmenter(blue), spec, pairs).notes)


def test_ignore_is_passed_on_and_void_is_said(data_set: tuple[Path, Path]) -> None:
    spec = spec_of("a", "b", "c")
    pairs = pair_files(*data_set)
    assert evaluate(FakeSegmenter(blue), spec, pairs, ignore=11).void_share == 3 / 32
    segment = FakeSegmenter(blue)
    with pytest.raises(MediaError, match="value 11"):
        evaluate(segment, spec, pairs, ignore=255)
    assert segment.calls == 0
    one_class = spec_of("a")
    always = FakeSegmenter(lambda frame: np.zeros(frame.shape[:2], np.uint8))
    assert any("void" in note for note in evaluate(always, one_class, pairs).notes)


def test_nothing_to_score(tmp_path: Path) -> None:
    spec = spec_of("a", "b")
    with pytest.raises(MediaError, match="no images"):
        evaluate(FakeSegmenter(blue), spec, [])
    for name in ("image", "label"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4), 200, np.uint8))
    pair = Pair(tmp_path / "image.png", tmp_path / "label.png")
    zeros = FakeSegmenter(lambda frame: np.zeros(frame.shape[:2], np.uint8))
    with pytest.raises(MediaError, match="every pixel of the 1 labels is void"):
        evaluate(zeros, spec, [pair])


def test_leftover_labels_are_noted(data_set: tuple[Path, Path]) -> None:
    pairing = pair_files(*data_set)
    extra = Pairing(pairing.pairs, (Path("other.png"),))
    report = evaluate(FakeSegmenter(blue), spec_of("a", "b", "c"), extra)
    assert "other.png" in report.notes[0]


def test_images_come_from_the_reader_that_is_given() -> None:
    class Reader:
        def __call__(self, path: Path) -> np.ndarray:
            raise MediaError(f"no {path}")

    with pytest.raises(MediaError, match="no here"):
        evaluate(
            FakeSegmenter(blue), spec_of("a"), [Pair(Path("here"), Path("l.png"))], read=Reader()
        )
