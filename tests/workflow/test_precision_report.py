"""What a precision costs per class: NumPy's numbers, with intervals that mean something."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segformer_deploy.graph.insert_qdq import insert_qdq
from segformer_deploy.workflow.judge import (
    bootstrap_interval,
    judged_from_folders,
    judged_from_frames,
)
from segformer_deploy.workflow.precision_report import report_precision
from tests.calibrate.given_frames import some_frames
from tests.graph.lively import lively_ranges, logits_of
from tests.workflow.small import (
    SIZE,
    ious_by_hand,
    label_pictures,
    map_by_hand,
    mean_by_hand,
    pictures,
    rgb,
    small_model,
    small_spec,
)

COUNT = 4


def test_scores_are_those_of_numpy(tmp_path: Path) -> None:
    images, labels = (
        pictures(tmp_path / "images", COUNT),
        label_pictures(tmp_path / "labels", COUNT),
    )
    before, after = small_model(), insert_qdq(small_model(), lively_ranges())
    frames = judged_from_folders(images, labels, small_spec())
    steps: list[int] = []
    report = report_precision(before, after, frames, steps.append)
    assert steps == list(range(1, COUNT + 1))
    assert (report["frames"], report["origin"], report["labels"]) == (COUNT, str(images), True)

    batch = np.stack([rgb(path) for path in sorted(images.iterdir())])
    truth = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(labels.iterdir())]
    maps = [
        [map_by_hand(one, SIZE) for one in logits_of(model, batch, literal=True)]
        for model in (before, after)
    ]
    same = np.mean([np.mean(a == b) for a, b in zip(*maps, strict=True)])
    assert report["agreement"] == pytest.approx(100 * same, abs=0.05)
    ious = [ious_by_hand(found, truth, 7) for found in maps]
    # A pixel or two may fall the other way; of a rare class that is more.
    means = [mean_by_hand(one) for one in ious]
    assert report["miou_before"] == pytest.approx(means[0], abs=0.05)
    assert report["miou_after"] == pytest.approx(means[1], abs=0.05)
    assert report["drop"] == pytest.approx(means[0] - means[1], abs=0.05)
    assert tuple(report["classes"]) == small_spec().class_names
    for index, one in enumerate(report["classes"].values()):
        assert one["iou_before"] == pytest.approx(ious[0][index], abs=0.1)
        assert one["iou_after"] == pytest.approx(ious[1][index], abs=0.1)
        low, high = one["change_interval"]
        assert low <= high
        assert low - 0.5 <= one["iou_after"] - one["iou_before"] <= high + 0.5
    for name in ("agreement", "drop"):
        low, high = report[f"{name}_interval"]
        assert low <= report[name] <= high
    assert 0 < report["boundary_f_after"] <= 100


def test_the_same_graph_loses_nothing(tmp_path: Path) -> None:
    images, labels = pictures(tmp_path / "images", 2), label_pictures(tmp_path / "labels", 2)
    frames = judged_from_folders(images, labels, small_spec())
    report = report_precision(small_model(), small_model(), frames)
    assert (report["agreement"], report["agreement_interval"]) == (100.0, (100.0, 100.0))
    assert (report["drop"], report["drop_interval"]) == (0.0, (0.0, 0.0))
    assert report["boundary_f_before"] == report["boundary_f_after"]
    for one in report["classes"].values():
        assert one["iou_before"] == one["iou_after"]
        assert one["change_interval"] in (None, (0.0, 0.0))


def test_without_labels_only_agreement_is_told() -> None:
    frames = judged_from_frames(some_frames(2), small_spec())
    report = report_precision(small_model(), small_model(seed=2), frames)
    assert report.keys() == {"frames", "origin", "agreement", "agreement_interval", "labels"}
    assert report["labels"] is False
    assert report["agreement"] < 90


def test_a_class_that_is_nowhere_has_no_score(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 1)
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "labels" / "f00.png"), np.full((64, 96), 255, np.uint8))
    frames = judged_from_folders(images, tmp_path / "labels", small_spec())
    report = report_precision(small_model(), small_model(), frames)
    assert (report["miou_before"], report["drop"], report["drop_interval"]) == (None, None, None)
    for one in report["classes"].values():
        assert set(one.values()) == {None}


# ---- intervals -------------------------------------------------------------------------------


def share(sums: npt.NDArray[np.int64]) -> float:
    return float(sums[0] / sums[1])


def test_an_interval_is_as_wide_as_the_normal_law_says() -> None:
    rng = np.random.default_rng(1)
    hits = rng.integers(300, 701, 400)
    interval = bootstrap_interval([np.array([hit, 1000]) for hit in hits], share)
    assert interval is not None
    centre, error = hits.mean() / 1000, hits.std() / 1000 / np.sqrt(len(hits))
    assert interval[0] == pytest.approx(centre - 1.96 * error, abs=0.3 * error)
    assert interval[1] == pytest.approx(centre + 1.96 * error, abs=0.3 * error)


def test_equal_frames_give_a_point_and_one_frame_too() -> None:
    for count in (1, 5):
        assert bootstrap_interval([np.array([3, 4])] * count, share) == (0.75, 0.75)


def test_an_interval_is_the_same_each_time() -> None:
    counts = [np.array([hit, 9]) for hit in range(9)]
    assert bootstrap_interval(counts, share) == bootstrap_interval(counts, share)
    assert bootstrap_interval(counts, share, seed=1) != bootstrap_interval(counts, share)


def test_draws_without_a_score_do_not_count() -> None:
    def known(sums: npt.NDArray[np.int64]) -> float | None:
        return share(sums) if sums[1] else None

    assert bootstrap_interval([np.array([0, 0])] * 3, known) is None
    rare = [np.array([0, 0])] * 3 + [np.array([1, 2])]
    assert bootstrap_interval(rare, known) == (0.5, 0.5)
