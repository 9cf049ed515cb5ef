"""build-engine --tile: what is measured, what is chosen, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segformer_deploy.calibrate.frames import StreetFrames
from segformer_deploy.cli.main import app
from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.engine.session import FakeEngine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import BuildError, FrameError, InputError, SpecError
from segformer_deploy.runtime.golden import read_picture
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.golden import carried_golden, refuse_nan
from segformer_deploy.workflow.memory_trial import TrialFrame, measure_peak
from segformer_deploy.workflow.sizes import AskedSizes
from segformer_deploy.workflow.tiling import TileRequest, measured_tiling, network_inputs
from tests.little import little_spec, write_little
from tests.runtime.test_tiled_segment import LARGE, with_context
from tests.workflow.small import saved

TILE = FrameSize(96, 96)
SHIPPED = Path(__file__).resolve().parents[2] / "models/segformer-b0-streets/model.onnx"


def compared(request: TileRequest, said: list[str] | None = None):
    engine = FakeEngine(with_context, 3)
    frames = StreetFrames(3, LARGE.resize, 0)
    return measured_tiling(engine, LARGE, request, frames, (said or []).append), frames


def by_hand(tiling: Tiling, frames: StreetFrames) -> list[float]:
    shares = []
    for one in frames:
        with Segmenter(FakeEngine(with_context, 3), spec=LARGE) as whole:
            expected = whole(one.picture)
        with Segmenter(FakeEngine(with_context, 3), spec=LARGE, tiling=tiling) as tiled:
            shares.append(100 * float((tiled(one.picture) == expected).mean()))
    return shares


def test_the_agreement_is_that_of_class_maps_by_tiles_and_whole() -> None:
    found, frames = compared(TileRequest(TILE))
    assert found.tiling == Tiling(TILE, 24)  # a quarter
    shares = by_hand(found.tiling, frames)
    assert found.agreement == pytest.approx(float(np.median(shares)), rel=1e-12)
    assert found.worst == pytest.approx(min(shares), rel=1e-12)
    assert min(shares) < 100
    assert (found.frames, found.origin) == (3, frames.origin)
    assert found.time_ratio > 0


def test_the_smallest_overlap_that_reaches_it_is_taken() -> None:
    worst = {
        one.overlap: min(by_hand(one, StreetFrames(3, LARGE.resize, 0)))
        for one in TileRequest(TILE, agreement=0).candidates()
    }
    assert list(worst) == [0, 12, 24, 36, 48]
    assert len(set(worst.values())) > 1
    for percent in (*worst.values(), 0.0):
        enough = [overlap for overlap, share in worst.items() if share >= percent]
        found, _ = compared(TileRequest(TILE, agreement=percent))
        assert found.tiling.overlap == enough[0]
    best = max(worst.values())
    with pytest.raises(BuildError, match=f"{best:.2f} %.*the best of 5 overlaps"):
        compared(TileRequest(TILE, agreement=100))
    with pytest.raises(BuildError, match="the best of 1 overlaps"):
        compared(TileRequest(TILE, overlap=24, agreement=100))


def test_one_window_agrees_with_the_whole() -> None:
    found, _ = compared(TileRequest(FrameSize(256, 256), agreement=100))
    assert (found.worst, found.tiling.overlap) == (100.0, 0)


def test_a_folders_golden_frames_are_tiled(tmp_path: Path) -> None:
    onnx = saved(tmp_path / "m.onnx")
    tiles = TileRequest(FrameSize(64, 64), 16)
    sizes = AskedSizes(opt=FrameSize(128, 160))
    report = build_engine(onnx, BuildOptions(sizes=sizes, output=tmp_path / "e", tiles=tiles))
    manifest = read_manifest(report.folder)
    assert manifest.tiling == report.manifest.tiling
    assert manifest.tiling is not None
    assert manifest.tiling.tiling == Tiling(FrameSize(64, 64), 16)
    assert manifest.spec.resize.size == FrameSize(128, 160)
    assert report.to_dict()["tiling"] == manifest.tiling.to_dict()
    picture = read_picture(report.folder / manifest.golden[0][0])
    expected = read_picture(report.folder / manifest.golden[0][1])
    assert picture.shape == (128, 160, 3)
    with Segmenter(onnx, size=FrameSize(128, 160), tiling=manifest.tiling.tiling) as tiled:
        np.testing.assert_array_equal(tiled(picture), expected)
    # And a plan that is built from this folder does not take them for whole ones.
    (tmp_path / "plan").mkdir()
    only = (SizeRange(FrameSize(128, 160), FrameSize(128, 160), FrameSize(128, 160)),)
    assert carried_golden(report.folder / "model.onnx", tmp_path / "plan", manifest.spec, only) is (
        None
    )


def test_min_and_max_are_a_windows(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", LARGE)
    tiles = TileRequest(TILE, 32)
    fits = AskedSizes(min=TILE, max=TILE)
    report = build_engine(onnx, BuildOptions(sizes=fits, output=tmp_path / "e", tiles=tiles))
    assert report.manifest.sizes is not None
    assert report.manifest.sizes.opt == TILE
    with Segmenter(report.folder) as segment:
        assert segment(np.zeros((64, 80, 3), np.uint8)).shape == (64, 80)
    other = AskedSizes(opt=FrameSize(160, 198), min=TILE, max=TILE)
    with pytest.raises(FrameError, match="96x94"):
        build_engine(onnx, BuildOptions(sizes=other, output=tmp_path / "f", tiles=tiles))


def test_a_nan_in_any_window_stops_the_build() -> None:
    def nan_at_the_end(image: np.ndarray) -> np.ndarray:
        logits = with_context(image)
        logits[image.max((1, 2, 3)) == 255] = np.nan
        return logits

    from segformer_deploy.errors import VerificationError

    picture = np.zeros((160, 200, 3), np.uint8)
    engine = FakeEngine(nan_at_the_end, 3)
    refuse_nan(engine, LARGE, picture, Tiling(TILE, 32))
    picture[-1, -1] = 255
    with pytest.raises(VerificationError, match="logits of fake"):
        refuse_nan(engine, LARGE, picture, Tiling(TILE, 32))
    shapes = {one.shape for one in network_inputs(picture, LARGE, Tiling(TILE, 32))}
    assert shapes == {(96, 96, 3)}


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_max_memory_is_held_to_by_the_frame_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    from segformer_deploy.workflow import memory

    asked: list[tuple[FrameSize, Tiling | None]] = []

    def measured(path: Path, size: FrameSize, backend: str, *more: int, **named: object):
        asked.append((size, named.get("tiling")))  # type: ignore[arg-type]
        return measure_peak(path, size, backend, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "measure_peak", measured)
    onnx = SHIPPED if backend == "native" else saved(tmp_path / "m.onnx")
    size = FrameSize(256, 320)
    options = BuildOptions(
        backend=backend,
        sizes=AskedSizes(opt=size),
        output=tmp_path / "e",
        tiles=TileRequest(FrameSize(64, 64), 16),
        max_memory=400 << 20,
    )
    report = build_engine(onnx, options)
    assert (size, Tiling(FrameSize(64, 64), 16)) in asked
    with Segmenter(report.folder) as segment:
        assert segment.first_load_agreement == 1.0
    with pytest.raises(BuildError, match="at 64x64") as error:
        build_engine(onnx, BuildOptions(**{**vars(options), "max_memory": 5 << 20}))
    assert "smaller --tile" in error.value.next_step


def test_a_cut_graph_for_the_window_segments_the_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's graph for one size and no other: the window's."""
    from segformer_deploy.workflow import memory
    from tests.workflow.test_memory import Scale

    scale = Scale(monkeypatch, usual=500.0, block=90.0, least=80.0)

    def scaled(path: Path, size: FrameSize, backend: str, runs: int = 4, **_: object):
        return scale(path, size, backend, runs)

    monkeypatch.setattr(memory, "measure_peak", scaled)
    onnx, size = saved(tmp_path / "m.onnx"), FrameSize(128, 160)
    tiles = TileRequest(FrameSize(64, 64), 16)
    report = build_engine(
        onnx,
        BuildOptions("onnxruntime", AskedSizes(opt=size), tmp_path / "e", max_memory=100 << 20,
                     tiles=tiles),
    )  # fmt: skip
    assert report.manifest.sizes == SizeRange(*[FrameSize(64, 64)] * 3, 1)
    picture = read_picture(report.folder / report.manifest.golden[0][0])
    with (
        Segmenter(report.folder) as cut,
        Segmenter(onnx, size=size, tiling=Tiling(FrameSize(64, 64), 16)) as plain_graph,
    ):
        assert np.mean(cut(picture) == plain_graph(picture)) > 0.999
    odd = BuildOptions("onnxruntime", AskedSizes(opt=FrameSize(126, 160)), tmp_path / "f",
                       max_memory=100 << 20, tiles=tiles)  # fmt: skip
    with pytest.raises(SpecError, match="windows of 62x64, 64x64 over 126x160"):
        build_engine(onnx, odd)


def test_a_trial_by_tiles_is_of_the_whole_frame(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=ResizeRule("none", None)))
    frame = TrialFrame(FrameSize(2048, 2048), Tiling(FrameSize(64, 64), 0))
    tiled = measure_peak(onnx, frame.size, "onnxruntime", 1, arena=False, tiling=frame.tiling)
    whole = measure_peak(onnx, frame.size, "onnxruntime", 1, arena=False)
    # The frame in float32, which the whole graph casts, is 48 MiB.
    assert tiled.peak_mib < whole.peak_mib - 24


def test_plans_are_tiled_where_they_run(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", LARGE)
    with pytest.raises(InputError, match="tiles in a folder for tensorrt") as error:
        build_engine(onnx, BuildOptions("tensorrt", tiles=TileRequest(TILE)))
    assert "--profile 96x96" in error.value.next_step


# The commands ---------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    onnx = write_little(tmp_path / "little.onnx", LARGE)
    found = CliRunner().invoke(
        app,
        ["build-engine", str(onnx), "--tile", "96x96", "--tile-overlap", "32", "--tile-merge",
         "centre", "--output", str(tmp_path / "engine"), "--json"],
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    tiling = json.loads(found.stdout)["tiling"]
    assert (tiling["tile"], tiling["overlap"], tiling["merge"]) == ("96x96", 32, "centre")
    assert "of the pixels as of the whole frame" in found.stderr
    return tmp_path / "engine"


def test_run_and_eval_take_tiles(tmp_path: Path, engine: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    for folder, content in (("images", picture), ("labels", picture.argmax(2).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), content)
    images, labels = str(tmp_path / "images"), str(tmp_path / "labels")
    for given, expected in (
        ([], Tiling(TILE, 32, "centre")),
        (["--tile", "64x64"], Tiling(FrameSize(64, 64), 16)),
        (["--tile", "none"], None),
    ):
        found = CliRunner().invoke(
            app, ["eval", str(engine), "--images", images, "--labels", labels, "--json", *given]
        )
        assert found.exit_code == 0, found.stderr
        tiling = json.loads(found.stdout)["tiling"]
        assert tiling == (expected.to_dict() if expected else None)
        masks = tmp_path / f"masks{len(given)}{expected}"
        found = CliRunner().invoke(
            app, ["run", str(engine), "--source", images, "--masks", str(masks), *given]
        )
        assert found.exit_code == 0, found.stderr
        assert ("other masks" in found.stderr) == (expected is not None)
        with Segmenter(engine, tiling=expected) as segment:
            np.testing.assert_array_equal(read_picture(masks / "a.png"), segment(picture))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tile-overlap", "16"], "--tile-overlap without tiles"),
        (["--tile-merge", "centre"], "--tile-merge without tiles"),
        (["--tile", "none", "--tile-overlap", "0"], "--tile-overlap without tiles"),
        (["--tile", "64x64", "--tile-merge", "sum"], "merge 'sum'"),
        (["--tile", "63x64"], "tiles of 63x64"),
        (["--tile", "64x64", "--tile-overlap", "64"], "an overlap of 64 pixels"),
    ],
)
def test_what_is_wrong_is_said(engine: Path, arguments: list[str], words: str) -> None:
    images = ["--images", str(engine), "--labels", str(engine)]
    found = CliRunner().invoke(app, ["eval", str(engine), *images, *arguments])
    assert found.exit_code == 1
    assert words in str(found.exception)


def test_build_engine_refuses_what_does_not_go_together(tmp_path: Path) -> None:
    onnx = str(write_little(tmp_path / "m.onnx", LARGE))
    for arguments, words in (
        (["--tile-agreement", "99"], "--tile-agreement without tiles"),
        (["--tile-images", "x"], "--tile-images without tiles"),
        (["--tile", "64x64", "--tile-agreement", "101"], "an agreement of 101"),
        (["--tile", "64x64", "--onnx-only", "--fp16"], "--tile with --onnx-only"),
    ):
        found = CliRunner().invoke(app, ["build-engine", onnx, *arguments])
        assert found.exit_code == 1
        assert words in str(found.exception)


def test_a_folder_is_asked_for_other_tiles_or_none(tmp_path: Path) -> None:
    """Its golden frames are checked as it was built; what is asked for is what then runs."""
    onnx, size = saved(tmp_path / "m.onnx"), FrameSize(128, 160)
    own, other = Tiling(FrameSize(64, 64), 16), Tiling(FrameSize(96, 96), 0, "centre")
    options = BuildOptions(
        sizes=AskedSizes(opt=size), output=tmp_path / "e", tiles=TileRequest(own.tile, own.overlap)
    )
    folder = build_engine(onnx, options).folder
    picture = read_picture(folder / "golden" / "0.frame.png")
    maps = []
    for asked in (other, None, own):
        with Segmenter(onnx, size=size, tiling=asked) as plain:
            expected = plain(picture)
        with Segmenter(folder, tiling=asked) as segment:
            # Kept from the second load on.
            assert segment.first_load_agreement == (1.0 if asked is other else None)
            np.testing.assert_array_equal(segment(picture), expected)
        maps.append(expected)
    # Far enough apart for the check of the golden frames to notice the wrong one.
    assert np.mean(maps[0] == maps[2]) < 0.99
    assert np.mean(maps[1] == maps[2]) < 0.99
