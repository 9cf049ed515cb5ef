"""Logits in strips are the bits of the whole, and the whole is never held."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy import Segmenter
from segformer_deploy.engine.native import strips
from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.engine.native.library import VARIANTS
from segformer_deploy.engine.session import StripSession
from segformer_deploy.errors import RunError
from segformer_deploy.runtime import host_segment
from segformer_deploy.spec import FrameSize
from tests.engine.native.compiled import force_variant
from tests.engine.native.quantise import int8_model
from tests.engine.native.quantise import saved as saved_int8
from tests.engine.native.test_native_engine import SMALL, saved
from tests.model.tiny import random_frames, same_weights


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return saved(same_weights(SMALL, folder, seed=3)[0], folder / "small.onnx")


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 300), st.integers(1, 64))
def test_strips_cover_every_row_and_share_one(height, width, classes, threads) -> None:
    parts = list(strips.strip_rows(height, width, classes, threads))
    assert parts[0][0] == 0
    assert parts[-1][1] == height
    assert all(one[1] - 1 == other[0] for one, other in pairwise(parts))
    assert all(end - first >= min(2, height) for first, end in parts)
    assert len(parts) <= max(8, 4 * height * width * classes // strips.STRIP_BYTES)
    twice = sum(end - first for first, end in parts) - height
    assert twice <= max(1, height / 7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (96, 65), (70, 98), (161, 65), (64, 556)])
@pytest.mark.parametrize("integers", [False, True])
def test_strips_are_the_bits_of_the_whole(
    small: Path, tmp_path: Path, monkeypatch, variant: str, threads: int, size, integers: bool
) -> None:
    force_variant(monkeypatch, variant)
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    path = saved_int8(int8_model(), tmp_path / "int8.onnx") if integers else small
    engine = NativeEngine(path, threads)
    frames = {"image": random_frames(1, *size, seed=7)}
    one, other = engine.session(), engine.session()
    whole = one.run(frames)["logits"][0]
    assert isinstance(other, StripSession)
    seen = 0
    for first, rows in other.strips(frames):
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows, whole[:, first : first + rows.shape[1]])
        seen += 1
    assert seen > 1
    assert other._logits.size < whole.size
    # A run of the whole after strips, and the other way round, finds its own buffers.
    np.testing.assert_array_equal(other.run(frames)["logits"][0], whole)
    assert sum(rows.shape[1] - 1 for _, rows in one.strips(frames)) == whole.shape[1] - 1
    for session in (one, other):
        session.close()
    with pytest.raises(RunError, match="closed"):
        next(one.strips(frames))


def test_one_frame_at_a_time(small: Path) -> None:
    session = NativeEngine(small, 1).session()
    with pytest.raises(RunError, match="2 frames"):
        next(session.strips({"image": random_frames(2, 64, 64, seed=0)}))
    session.close()


def test_a_segmenters_class_maps_are_made_of_strips(small: Path, monkeypatch) -> None:
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    size = FrameSize(160, 128)
    frames = list(random_frames(2, 200, 333, seed=1))
    with Segmenter(small, backend="native", size=size, threads=2) as segment:
        maps = segment(frames)
        assert set(segment.last_stages_ms) == {"preprocess", "infer", "class_map"}
        assert all(ms > 0 for ms in segment.last_stages_ms.values())
        held = segment._cpu._session._logits.size  # type: ignore[union-attr]
        both = segment(frames, confidence=True)  # needs them all
        whole = segment._cpu._session._logits.size  # type: ignore[union-attr]
        monkeypatch.setattr(host_segment, "StripSession", type("Nobody", (), {}))
        expected = segment(frames)
    assert held < whole / 4
    for one, (other, _), third in zip(maps, both, expected, strict=True):
        np.testing.assert_array_equal(one, third)
        np.testing.assert_array_equal(other, third)
