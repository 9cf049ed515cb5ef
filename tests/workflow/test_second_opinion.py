"""Another library looks at the golden frames: what it must agree on, and how far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.errors import MissingDependencyError, VerificationError
from segformer_deploy.graph.insert_qdq import insert_qdq
from segformer_deploy.workflow import second_opinion as module
from segformer_deploy.workflow.second_opinion import second_opinion
from tests.graph.lively import lively_ranges, logits_of
from tests.model.tiny import random_frames
from tests.workflow.small import Array, saved, small_model

FRAMES = random_frames(2, 64, 96, seed=4)
Change = Callable[[Array, int], Array]


class Changed:
    """ONNX Runtime's answers, each changed; the engine under suspicion."""

    name = "suspect 1.0"

    def __init__(self, path: Path, change: Change, *, int8: bool = False) -> None:
        self._engine = OrtEngine(path, OrtOptions(as_written=int8))
        self._change = change
        self.open = 0

    def session(self) -> Any:
        self.open += 1
        session, change, close = self._engine.session(), self._change, self._close
        runs: list[int] = []

        class Session:
            def run(self, arrays: Any) -> dict[str, Array]:
                runs.append(1)
                return {"logits": change(session.run(arrays)["logits"].copy(), len(runs) - 1)}

            def close(self) -> None:
                session.close()
                close()

        return Session()

    def _close(self) -> None:
        self.open -= 1


def nudged(share: float) -> Change:
    """One logit of the first frame, by a share of the largest magnitude of all."""

    def change(logits: Array, turn: int) -> Array:
        if turn == 0:
            logits[0, 2, 3, 4] += share * largest()
        return logits

    return change


def largest() -> float:
    return float(np.abs(logits_of(small_model(), FRAMES)).max())


def noisy(share: float) -> Change:
    """White noise of a share of the logits' strength."""

    def change(logits: Array, turn: int) -> Array:
        strength = np.sqrt(np.mean(logits.astype(np.float64) ** 2))
        noise = np.random.default_rng(turn).standard_normal(logits.shape)
        return (logits + share * strength * noise).astype(np.float32)

    return change


def opinion(folder: Path, change: Change, *, int8: bool = False) -> Any:
    model = insert_qdq(small_model(), lively_ranges()) if int8 else small_model()
    path = saved(folder / "small.onnx", model)
    suspect: Any = Changed(path, change, int8=int8)
    try:
        return second_opinion(suspect, path, list(FRAMES), int8)
    finally:
        assert suspect.open == 0


def same(logits: Array, _turn: int) -> Array:
    return logits


@pytest.mark.parametrize("int8", [False, True])
def test_equal_logits_differ_by_nothing(tmp_path: Path, int8: bool) -> None:
    found = opinion(tmp_path, same, int8=int8)
    assert found.relative == 0
    assert found.int8 is int8
    assert found.by.startswith("onnxruntime ")
    assert found.by in str(found)


def test_of_fp32_the_largest_difference_counts(tmp_path: Path) -> None:
    found = opinion(tmp_path, nudged(5e-5))
    assert found.relative == pytest.approx(5e-5, rel=0.02)
    assert "by at most 5.0e-05 of the largest" in str(found)
    with pytest.raises(VerificationError, match=r"differ by 2\.0e-04 of the logits") as caught:
        opinion(tmp_path, nudged(2e-4))
    assert "suspect 1.0" in caught.value.found
    assert caught.value.expected == "at most 1e-04"
    assert "--backend onnxruntime" in caught.value.next_step


def test_of_int8_the_root_mean_square_counts(tmp_path: Path) -> None:
    found = opinion(tmp_path, noisy(0.05), int8=True)
    assert found.relative == pytest.approx(0.05, rel=0.05)
    assert "in root mean square by 5." in str(found)
    assert "of their own" in str(found)
    with pytest.raises(VerificationError) as caught:
        opinion(tmp_path, noisy(0.2), int8=True)
    assert caught.value.expected == "at most 1e-01"


def test_a_tie_that_falls_the_other_way_is_no_fault_of_int8(tmp_path: Path) -> None:
    assert opinion(tmp_path, nudged(0.3), int8=True).relative < 0.1
    with pytest.raises(VerificationError):
        opinion(tmp_path, nudged(0.3))


def doubled(logits: Array, _turn: int) -> Array:
    return 2 * logits


def other_order(logits: Array, _turn: int) -> Array:
    return logits[:, ::-1]


@pytest.mark.parametrize("change", [doubled, other_order])
def test_a_wrong_scale_or_order_is_found_in_int8_too(tmp_path: Path, change: Change) -> None:
    with pytest.raises(VerificationError):
        opinion(tmp_path, change, int8=True)


def nan_on(turn_of_nan: int) -> Change:
    def change(logits: Array, turn: int) -> Array:
        if turn == turn_of_nan:
            logits[0, 0, 0, 0] = np.nan
        return logits

    return change


@pytest.mark.parametrize(("turn", "int8"), [(0, False), (0, True), (1, True)])
def test_nan_is_no_agreement(tmp_path: Path, turn: int, int8: bool) -> None:
    with pytest.raises(VerificationError, match="nan"):
        opinion(tmp_path, nan_on(turn), int8=int8)


def test_nan_on_a_later_frame_is_none_either(tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        opinion(tmp_path, nan_on(1))


def test_without_the_other_library_there_is_no_opinion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise MissingDependencyError("onnxruntime", "cpu", "running networks")

    path = saved(tmp_path / "small.onnx")
    suspect: Any = Changed(path, same)
    monkeypatch.setattr(module, "OrtEngine", missing)
    assert second_opinion(suspect, path, list(FRAMES)) is None
