"""Segmenter with tiles: one window is the whole frame, and who says what of sizes and devices."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segformer_deploy.engine import manifest as manifest_module
from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.engine.session import FakeEngine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import BackendError, EngineFolderError, FrameError, RunError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.runtime.tiled_segment import TiledSegment
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.tiling import TileRequest
from tests.little import little_spec, write_little
from tests.runtime.test_segmenter import NATIVE, block_means, frame

LARGE = little_spec(resize=ResizeRule.stretch_to(FrameSize(160, 200)))


def with_context(image: np.ndarray) -> np.ndarray:
    """The little network with a reach: what the whole picture holds moves each logit."""
    logits = block_means(image)
    return (logits - 1.5 * logits.mean((2, 3), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("merge", ["average", "centre"])
@pytest.mark.parametrize("size", [(64, 96), (200, 132)])
def test_one_window_gives_the_masks_and_confidence_of_the_whole(merge, size) -> None:
    one = frame(*size)
    with (
        Segmenter(FakeEngine(with_context, 3), spec=NATIVE) as whole,
        Segmenter(
            FakeEngine(with_context, 3),
            spec=NATIVE,
            tiling=Tiling.of(FrameSize(200, 200), 8, merge),
        ) as tiled,
    ):
        expected, sure = whole(one, confidence=True)
        found, tiled_sure = tiled(one, confidence=True)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(tiled_sure.view(np.uint32), sure.view(np.uint32))
        np.testing.assert_array_equal(tiled(one), expected)


def test_centre_windows_of_a_network_without_reach_are_the_whole() -> None:
    one = frame(111, 222)
    tiling = Tiling(FrameSize(64, 72), 20, "centre")
    with (
        Segmenter(FakeEngine(block_means, 3), spec=LARGE) as whole,
        Segmenter(FakeEngine(block_means, 3), spec=LARGE, tiling=tiling) as tiled,
    ):
        np.testing.assert_array_equal(tiled(one), whole(one))


def test_the_average_is_pytorchs_over_the_windows() -> None:
    """mmsegmentation's order, but for the upsampling, which comes after the mean here."""
    one, picture = frame(160, 200), FrameSize(160, 200)
    with Segmenter(
        FakeEngine(with_context, 3), spec=LARGE, tiling=Tiling(FrameSize(96, 96), 32)
    ) as segment:
        found, sure = segment(one, confidence=True)
        np.testing.assert_array_equal(segment(one), found)
    sums, counts = torch.zeros(3, 40, 50), torch.zeros(40, 50)
    rgb = one[:, :, ::-1]
    for top in (0, 64):
        for left in (0, 64, 104):
            window = np.ascontiguousarray(rgb[top : top + 96, left : left + 96])[None]
            rows, columns = slice(top // 4, top // 4 + 24), slice(left // 4, left // 4 + 24)
            sums[:, rows, columns] += torch.from_numpy(with_context(window)[0])
            counts[rows, columns] += 1
    large = torch.nn.functional.interpolate(
        (sums / counts)[None], (picture.height, picture.width), mode="bilinear"
    )[0]
    top_two = large.topk(2, dim=0).values
    clear = (top_two[0] - top_two[1] > 1e-3).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], large.argmax(0).numpy()[clear])
    expected = torch.softmax(large, 0).gather(0, torch.from_numpy(found)[None].long())[0].numpy()
    np.testing.assert_allclose(sure, expected, atol=1e-3)
    # And it is no whole frame in disguise.
    with Segmenter(FakeEngine(with_context, 3), spec=LARGE) as whole:
        assert np.any(whole(one) != found)


def test_the_network_sees_one_window_at_a_time_in_one_buffer() -> None:
    shapes: list[tuple[int, ...]] = []
    addresses = set()

    def note(image: np.ndarray) -> np.ndarray:
        shapes.append(image.shape)
        addresses.add(image.ctypes.data)
        return block_means(image)

    with Segmenter(
        FakeEngine(note, 3), spec=LARGE, tiling=Tiling(FrameSize(96, 96), 32)
    ) as segment:
        both = segment([frame(), frame(128, 96, seed=1)])
        assert [one.shape for one in both] == [(64, 96), (128, 96)]
        assert set(segment.last_stages_ms) == {"preprocess", "infer", "class_map"}
        assert min(segment.last_stages_ms.values()) >= 0
    assert shapes == [(1, 96, 96, 3)] * 12
    assert len(addresses) == 1


def test_a_graph_of_class_maps_cannot_be_tiled() -> None:
    spec = LARGE.with_(output="class_map")
    engine = FakeEngine(lambda image: image[..., 0], 3, "class_map")
    with pytest.raises(RunError, match="class maps only"):
        Segmenter(engine, spec=spec, tiling=Tiling(FrameSize(64, 64), 0))


def test_tiles_are_cut_on_the_cpu_and_say_so() -> None:
    tiling = Tiling(FrameSize(64, 64), 0)
    with Segmenter(FakeEngine(block_means, 3), spec=LARGE, tiling=tiling) as segment:
        assert segment.device == "cpu"
        assert "tiles" in segment.device_how
    with pytest.raises(BackendError, match="cuda with tiles"):
        Segmenter(FakeEngine(block_means, 3), spec=LARGE, tiling=tiling, device="cuda")


def test_sizes_are_a_windows(tmp_path: Path) -> None:
    only = SizeRange(FrameSize(96, 96), FrameSize(96, 96), FrameSize(96, 96))
    session = FakeEngine(block_means, 3).session()
    tiled = TiledSegment(session, LARGE, 1, Tiling(FrameSize(96, 96), 32), only)
    rule = LARGE.resize
    (answer,) = tiled([frame()], FrameSize(160, 200), rule, "bgr", confidence=False)
    assert answer.shape == (64, 96)
    # 198 is no multiple of 4: the last window is shorter, and this engine does not take it.
    odd = ResizeRule.stretch_to(FrameSize(160, 198))
    with pytest.raises(FrameError, match="network size 96x94"):
        tiled([frame()], FrameSize(160, 198), odd, "bgr", confidence=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx = write_little(tmp_path / "little.onnx", LARGE)
    tiles = TileRequest(FrameSize(96, 96), 32)
    return build_engine(onnx, BuildOptions(output=tmp_path / "engine", tiles=tiles)).folder


def test_a_folder_segments_as_it_was_built_and_checks_itself_so(folder: Path) -> None:
    with Segmenter(folder) as own:
        assert own.tiling == Tiling(FrameSize(96, 96), 32)
        assert own.first_load_agreement == 1.0
    with Segmenter(folder, tiling=None) as whole:
        assert whole.tiling is None
        assert whole(frame()).shape == (64, 96)
    other = Tiling(FrameSize(64, 64), 0, "centre")
    with Segmenter(folder, tiling=other, size=FrameSize(120, 120)) as asked:
        assert asked.tiling == other
        assert asked(frame()).shape == (64, 96)


def test_older_folders_keep_their_seal_and_load(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.tiling is not None
    older = replace(manifest, tiling=None)
    assert "tiling" not in older.to_dict()
    (folder / "manifest.json").write_text(older.to_json())
    assert read_manifest(folder) == older
    assert older.seal != manifest.seal


@pytest.mark.parametrize(
    "change", [{"overlap": 3}, {"merge": "sum"}, {"agreement": "all"}, {"tile": 5}, {"frames": 0}]
)
def test_a_tiling_sealed_again_is_still_checked(folder: Path, change: dict) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data.pop("seal")
    data["tiling"].update(change)
    data["seal"] = manifest_module._seal(data)
    path.write_text(json.dumps(data))
    with pytest.raises(EngineFolderError, match="does not read"):
        read_manifest(folder)
