"""Windows and their merging: against the definition in float64, and to the bit where promised."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from segformer_deploy.engine.tiling import (
    MeasuredTiling,
    Tiling,
    measured_tiling_from_dict,
)
from segformer_deploy.errors import SpecError
from segformer_deploy.runtime.class_map import class_map_from_logits, class_map_from_strips
from segformer_deploy.runtime.tiles import Grid, spans, strips_from_windows, whole_from_strips
from segformer_deploy.spec import FrameSize

sides = st.integers(64, 400)
tiles = st.integers(16, 60).map(lambda n: 4 * n)
merges = st.sampled_from(["average", "centre"])


@st.composite
def tilings(draw: Callable) -> Tiling:
    tile = FrameSize(draw(tiles), draw(tiles))
    overlap = draw(st.integers(0, min(tile.height, tile.width) // 4 - 1)) * 4
    return Tiling(tile, overlap, draw(merges))


pictures = st.builds(FrameSize, sides, sides)


def window_logits(grid: Grid, classes: int, seed: int) -> dict:
    """Other logits in each window: what is merged wrongly shows."""
    rng = np.random.default_rng(seed)
    return {
        (row, column): rng.normal(
            size=(classes, -(-(row.end - row.begin) // 4), -(-(column.end - column.begin) // 4))
        ).astype(np.float32)
        for row in grid.rows
        for column in grid.columns
    }


def reference(grid: Grid, windows: dict, merge: str) -> np.ndarray:
    """Straight from the definition, pixel by pixel of the logit grid, in float64."""
    height, width = -(-grid.picture.height // 4), -(-grid.picture.width // 4)
    classes = len(next(iter(windows.values())))
    total = np.zeros((classes, height, width))
    count = np.zeros((height, width))
    furthest = np.full((height, width), -1.0)
    for (row, column), logits in windows.items():
        top, left = row.begin // 4, column.begin // 4
        for y in range(logits.shape[1]):
            for x in range(logits.shape[2]):
                at = top + y, left + x
                if merge == "average":
                    total[:, at[0], at[1]] += logits[:, y, x]
                    count[at] += 1
                    continue
                # A logit's middle to the window's borders; the picture's own are none.
                border = min(
                    y + 0.5 if row.begin else np.inf,
                    logits.shape[1] - y - 0.5 if row.end < grid.picture.height else np.inf,
                    x + 0.5 if column.begin else np.inf,
                    logits.shape[2] - x - 0.5 if column.end < grid.picture.width else np.inf,
                )
                if border > furthest[at]:
                    furthest[at] = border
    return (total / count if merge == "average" else total), furthest


@given(picture=pictures, tiling=tilings())
def test_the_windows_cover_the_picture_and_lie_on_its_logits(picture, tiling) -> None:
    grid = Grid.over(picture, tiling)
    for axis, side, tile in (
        (grid.rows, picture.height, tiling.tile.height),
        (grid.columns, picture.width, tiling.tile.width),
    ):
        assert axis[0].begin == 0
        assert axis[-1].end == side
        for number, span in enumerate(axis):
            assert span.begin % 4 == 0
            last = number == len(axis) - 1
            assert span.end - span.begin == (min(tile, side) if not last or side % 4 == 0 else
                                             side - span.begin)  # fmt: skip
            assert min(tile, side) - 3 <= span.end - span.begin <= tile
            assert span.begin // 4 <= span.keep[0] < span.keep[1] <= -(-span.end // 4)
        for left, right in pairwise(axis):
            shared = left.end - right.begin
            assert shared >= tiling.overlap
            assert shared == tiling.overlap or right is axis[-1]
            if tiling.merge == "centre":
                assert left.keep[1] == right.keep[0]
    stride = lambda tile: tile - tiling.overlap  # noqa: E731
    for axis, side, tile in (
        (grid.rows, picture.height, tiling.tile.height),
        (grid.columns, picture.width, tiling.tile.width),
    ):
        # As the usual sliding inference counts them.
        assert len(axis) == max(-(-(side - tile) // stride(tile)), 0) + 1


@given(picture=st.builds(FrameSize, st.integers(64, 200), st.integers(64, 200)),
       tiling=tilings(), seed=st.integers(0, 99))  # fmt: skip
def test_the_average_is_the_mean_of_all_windows(picture, tiling, seed) -> None:
    tiling = Tiling(tiling.tile, tiling.overlap, "average")
    grid = Grid.over(picture, tiling)
    windows = window_logits(grid, 2, seed)
    found = whole_from_strips(strips_from_windows(grid, lambda *at: windows[at]))
    expected, _ = reference(grid, windows, "average")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@given(picture=st.builds(FrameSize, st.integers(64, 200), st.integers(64, 200)),
       tiling=tilings())  # fmt: skip
def test_the_centre_is_the_window_furthest_from_a_border(picture, tiling) -> None:
    tiling = Tiling(tiling.tile, tiling.overlap, "centre")
    grid = Grid.over(picture, tiling)
    # Each window answers with how far its logits lie from its own borders.
    windows = {}
    for at, logits in window_logits(grid, 1, 0).items():
        _, own = reference(grid, {at: logits}, "centre")
        row, column = at
        windows[at] = own[None, row.begin // 4 :, column.begin // 4 :][
            :, : logits.shape[1], : logits.shape[2]
        ].astype(np.float32)
    found = whole_from_strips(strips_from_windows(grid, lambda *at: windows[at]))
    _, furthest = reference(grid, windows, "centre")
    np.testing.assert_array_equal(found[0], furthest)


@given(picture=pictures, tiling=tilings(), seed=st.integers(0, 99), data=st.data())
@example(picture=FrameSize(65, 64), tiling=Tiling(FrameSize(64, 64), 0), seed=0, data=None)
def test_the_class_map_of_strips_is_that_of_the_whole_logits(picture, tiling, seed, data) -> None:
    grid = Grid.over(picture, tiling)
    windows = window_logits(grid, 3, seed)
    whole = whole_from_strips(strips_from_windows(grid, lambda *at: windows[at]))
    assert whole.shape == (3, -(-picture.height // 4), -(-picture.width // 4))
    sizes = st.builds(FrameSize, st.integers(1, 500), st.integers(1, 300))
    size = picture if data is None else data.draw(sizes)
    found = class_map_from_strips(
        strips_from_windows(grid, lambda *at: windows[at]), whole.shape[1], size
    )
    np.testing.assert_array_equal(found, class_map_from_logits(whole, size))


def test_the_class_map_is_that_of_pytorchs_interpolate() -> None:
    grid = Grid.over(FrameSize(200, 300), Tiling(FrameSize(96, 128), 32))
    windows = window_logits(grid, 5, 1)
    merged, _ = reference(grid, windows, "average")
    large = torch.nn.functional.interpolate(
        torch.from_numpy(merged)[None], (417, 533), mode="bilinear", align_corners=False
    )[0]
    found = class_map_from_strips(
        strips_from_windows(grid, lambda *at: windows[at]), 50, FrameSize(417, 533)
    )
    best = large.topk(2, dim=0).values
    clear = ((best[0] - best[1]) > 1e-5).numpy()  # elsewhere float32 may decide either way
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], large.argmax(0).numpy()[clear])


@pytest.mark.parametrize("merge", ["average", "centre"])
def test_one_window_keeps_every_bit(merge: str) -> None:
    grid = Grid.over(FrameSize(130, 75), Tiling(FrameSize(256, 256), 64, merge))
    assert len(grid) == 1
    (logits,) = window_logits(grid, 4, 3).values()
    logits[0, 0, 0], logits[1, 2, 3] = np.nan, -np.inf
    found = whole_from_strips(strips_from_windows(grid, lambda *_: logits))
    np.testing.assert_array_equal(found.view(np.uint32), logits.view(np.uint32))


def test_no_more_strips_are_held_than_rows_of_windows_touch() -> None:
    grid = Grid.over(FrameSize(1000, 64), Tiling(FrameSize(64, 64), 16))
    windows = window_logits(grid, 2, 0)
    alive: list[weakref.ref] = []
    strips = strips_from_windows(grid, lambda *at: windows[at])
    for _ in grid.rows:
        _, strip = next(strips)
        alive.append(weakref.ref(strip))
        del strip
        assert sum(one() is not None for one in alive) == 0


@pytest.mark.parametrize(
    ("tile", "overlap", "merge", "found"),
    [
        ("62x64", 0, "average", "tiles of 62x64"),
        ("60x64", 0, "average", "tiles of 60x64"),
        ("64x64", 6, "average", "an overlap of 6"),
        ("64x64", -4, "average", "an overlap of -4"),
        ("64x128", 64, "average", "an overlap of 64 pixels"),
        ("64x64", 16, "mean", "merge 'mean'"),
    ],
)
def test_tilings_that_cannot_be(tile: str, overlap: int, merge: str, found: str) -> None:
    with pytest.raises(SpecError, match=found):
        Tiling(FrameSize.parse(tile), overlap, merge)  # type: ignore[arg-type]


def test_a_measured_tiling_survives_its_dict() -> None:
    one = MeasuredTiling(Tiling(FrameSize(64, 96), 16, "centre"), 99.5, 98.0, 1.5, 8, "streets")
    assert measured_tiling_from_dict(one.to_dict()) == one
    for wrong in ({"worst": 99.9}, {"agreement": 101.0}, {"frames": 0}, {"time_ratio": 0}):
        with pytest.raises(ValueError, match="a measured tiling"):
            measured_tiling_from_dict({**one.to_dict(), **wrong})
    with pytest.raises(SpecError):
        measured_tiling_from_dict({**one.to_dict(), "overlap": 3})


def test_neighbours_share_the_overlap_and_the_last_one_more() -> None:
    found = [(one.begin, one.end, one.keep) for one in spans(300, 128, 32, "centre")]
    assert found == [(0, 128, (0, 28)), (96, 224, (28, 49)), (172, 300, (49, 75))]


@given(picture=pictures, tiling=tilings(), seed=st.integers(0, 9))
def test_enlarging_first_differs_beside_borders_only(picture, tiling, seed) -> None:
    """mmsegmentation enlarges each window, then averages: what docs/tiles.md says of it."""
    picture = FrameSize(picture.height // 4 * 4, picture.width // 4 * 4)
    grid = Grid.over(picture, Tiling(tiling.tile, tiling.overlap, "average"))
    windows = window_logits(grid, 1, seed)

    def enlarged(logits: np.ndarray) -> np.ndarray:
        size = 4 * logits.shape[1], 4 * logits.shape[2]
        tensor = torch.from_numpy(logits.astype(np.float64))[None]
        return torch.nn.functional.interpolate(tensor, size, mode="bilinear")[0].numpy()

    sums, counts = (
        np.zeros((1, picture.height, picture.width)),
        np.zeros((picture.height, picture.width)),
    )
    for (row, column), logits in windows.items():
        sums[:, row.pixels, column.pixels] += enlarged(logits)
        counts[row.pixels, column.pixels] += 1
    merged = whole_from_strips(strips_from_windows(grid, lambda *at: windows[at]))
    far = np.ones((picture.height, picture.width), bool)
    for axis, side, lines in (
        (grid.rows, picture.height, far),
        (grid.columns, picture.width, far.T),
    ):
        for edge in {one.begin for one in axis} | {one.end for one in axis}:
            if 0 < edge < side:
                lines[edge - 2 : edge + 2] = False
    difference = np.abs(sums / counts - enlarged(merged))[0]
    assert np.all(difference[far] < 1e-5)
