"""Class maps as runs: back to the same map, and Parquet files that hold each frame once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segformer_deploy.batch import run_length
from segformer_deploy.batch.run_length import CLASS_NAMES, class_map_of, runs_of
from segformer_deploy.errors import MissingDependencyError
from segformer_deploy.video.overlay import class_shares
from tests.batch.batches import go, job_of
from tests.batch.films import film
from tests.little import NAMES


@pytest.fixture
def parquet() -> Any:
    if os.environ.get("SEGDEPLOY_REQUIRE_FLEET") != "1":
        pytest.importorskip("pyarrow")
    import pyarrow.parquet

    return pyarrow.parquet


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.integers(0, 3),
    )
)
def test_runs_are_the_map(class_map: np.ndarray[Any, Any]) -> None:
    values, lengths = runs_of(class_map)
    row = {"run_values": values, "run_lengths": lengths}
    again = class_map_of({**row, "height": class_map.shape[0], "width": class_map.shape[1]})
    assert np.array_equal(again, class_map)
    assert lengths.min() > 0
    assert (np.diff(values) != 0).all()  # no two runs that are one


def test_runs_of_a_part_of_a_larger_map() -> None:
    large = np.arange(100, dtype=np.uint8).reshape(10, 10) // 7
    window = large[2:7, 1:9]
    values, lengths = runs_of(window)
    row = {"run_values": values, "run_lengths": lengths, "height": 5, "width": 8}
    assert np.array_equal(class_map_of(row), window)


def test_the_file_holds_each_frame_once(tmp_path: Path, parquet: Any) -> None:
    path, out = film(tmp_path / "film.mp4", 60), tmp_path / "out"
    report = go(job_of(tmp_path, path, out, masks=True, parquet=True, overlay=False))
    assert report.complete
    assert report.items[0].chunks > 1
    place = out / "film.mp4"
    file = parquet.ParquetFile(place / "frames.parquet")
    assert json.loads(file.schema_arrow.metadata[CLASS_NAMES]) == list(NAMES)
    rows = file.read().to_pylist()
    assert [row["index"] for row in rows] == list(range(60))
    assert [row["time_s"] for row in rows] == pytest.approx([n / 25 for n in range(60)])
    for row in rows:
        mask = cv2.imread(str(place / "masks" / f"{row['index']:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(class_map_of(row), mask)
        assert row["class_shares"] == class_shares(mask, len(NAMES)).tolist()


def test_frames_without_times(tmp_path: Path, parquet: Any) -> None:
    path, out = film(tmp_path / "film.h264", 40), tmp_path / "out"
    go(job_of(tmp_path, path, out, parquet=True, overlay=False))
    rows = parquet.read_table(out / "film.h264" / "frames.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(40))


def test_a_full_disk_is_told(tmp_path: Path, parquet: Any) -> None:
    path = film(tmp_path / "film.mp4", 20)
    job = job_of(tmp_path, path, tmp_path / "out", parquet=True, overlay=False)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet.ParquetWriter, "write_table", full)
        report = go(job)
    assert "No space left on device" in (report.items[0].error or "")
    assert go(job).complete


def test_without_pyarrow_it_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise MissingDependencyError("pyarrow", "parquet", "Parquet files")

    monkeypatch.setattr(run_length, "_pyarrow", absent)
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    with pytest.raises(MissingDependencyError, match="pyarrow") as caught:
        go(job_of(tmp_path, path, out, parquet=True))
    assert "[parquet]" in caught.value.next_step
    assert not out.exists()
