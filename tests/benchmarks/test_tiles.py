"""benchmarks/tiles.py: what it measures is what class maps by tiles and whole say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import tiles  # noqa: E402

from segformer_deploy.bench.accuracy import evaluate  # noqa: E402
from segformer_deploy.bench.labels import pair_files  # noqa: E402
from segformer_deploy.engine.session import FakeEngine  # noqa: E402
from segformer_deploy.engine.tiling import Tiling  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.video.images import read_image  # noqa: E402
from tests.benchmarks.test_resolution import data  # noqa: E402
from tests.runtime.test_tiled_segment import LARGE, with_context  # noqa: E402

__all__ = ["data"]
SIZE = FrameSize(128, 160)


def test_the_same_windows_are_measured_once() -> None:
    found = tiles.cases_of(SIZE, ["64x64", "128x128", "256x256"], 3)
    kept = [(str(one.tiling.tile), one.tiling.overlap) for one in found[1:] if one.tiling]
    # 128x128 windows over 160 begin at 0 and 32 whatever the overlap; 256x256 is the whole.
    assert kept == [("64x64", 0)] * 2 + [("64x64", 16)] * 2 + [("128x128", 32)] * 2
    assert found[0].tiling is None


def test_the_figures_are_those_of_the_class_maps(data: Path) -> None:
    engine = FakeEngine(with_context, 3)
    found = tiles.cases_of(SIZE, ["64x64"], 3)
    frames = list(tiles.frames_of(data, LARGE, 1))
    tiles.measure(engine, LARGE, found, frames, threads=1)
    pairs = pair_files(data / "images", data / "labels")
    with Segmenter(engine, spec=LARGE, size=SIZE) as whole:
        expected = [whole(read_image(pair.image)) for pair in pairs]
    for one in found:
        with Segmenter(engine, spec=LARGE, size=SIZE, tiling=one.tiling) as segment:
            report = evaluate(segment, LARGE, pairs, boundary=False)
            maps = [segment(read_image(pair.image)) for pair in pairs]
        assert one.to_dict()["miou"] == pytest.approx(report.miou)
        same = [100 * float(np.mean(a == b)) for a, b in zip(maps, expected, strict=True)]
        assert one.same == pytest.approx(same)
        assert len(one.ms) == 2
    assert found[0].same == [100.0, 100.0]
    assert min(found[1].same) < 100


def test_the_table_compares_with_the_whole_of_the_same_size() -> None:
    tiling = Tiling(FrameSize(64, 64), 16).to_dict()
    whole = {"size": "96x96", "tiling": None, "windows": 1, "miou": 40.0, "same": [100.0] * 3,
             "ms": [10.0, 20.0, 10.0], "peak_mib": [70.0, 71.0]}  # fmt: skip
    one = {"size": "96x96", "tiling": tiling, "windows": 4, "miou": 41.5,
           "same": [90.0, 70.0, 80.0], "ms": [15.0, 60.0, 20.0],
           "peak_mib": [50.0, 49.0]}  # fmt: skip
    assert tiles.table({"cases": [whole, one]}) == [
        "| **96x96** | whole | | | 40.00 | | | | 71.0 | |",
        "| 96x96 | 4 of 64x64 | 16 | average | 41.50 | +1.50 | 80.0 | 70.0 | 50.0 | 2.00 |",
    ]


def test_the_page_is_printed_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"size": "96x96", "tiling": None, "miou": 40.0, "ms": [1.0], "peak_mib": [71.0]}
    (tmp_path / "t.json").write_text(json.dumps({"cases": [whole]}))
    assert tiles.main(["--page", "--output", str(tmp_path / "t.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *tiles.HEADING,
        *tiles.table({"cases": [whole]}),
    ]
    with pytest.raises(SystemExit):
        tiles.main([])
