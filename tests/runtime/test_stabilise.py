"""The vote that steadies class maps: C and NumPy against a slow one in plain Python."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.runtime import native, stabilise

VARIANTS = ("baseline", "avx2")


def slow_vote(
    now: stabilise.Frame,
    before: stabilise.Frame,
    motion: np.ndarray,
    cell: int,
    voting: stabilise.Voting,
) -> tuple[np.ndarray, np.ndarray]:
    """The rule as its description has it, pixel by pixel."""
    height, width = now.class_map.shape
    voted, evidence = now.class_map.copy(), np.zeros((height, width), np.uint8)

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width

    def cast(frame: stabilise.Frame, y: int, x: int, colour: Any, factor: int) -> Counter[int]:
        votes: Counter[int] = Counter()
        top, left = min(max(y - 4, 0), height - 8), min(max(x - 8, 0), width - 16)
        for v in range(top, top + 8):
            for u in range(left, left + 16):
                apart = max(abs(int(frame.planes[k, v, u]) - int(colour[k])) for k in range(3))
                votes[int(frame.class_map[v, u])] += max(0, voting.reach - apart) * factor
        return votes

    for y in range(height):
        for x in range(width):
            dx, dy = (int(one) for one in motion[y // cell, x // cell])
            new = shown = int(now.class_map[y, x])
            gathered, known = 0, inside(y + dy, x + dx)
            if known:
                shown = int(before.class_map[y + dy, x + dx])
                gathered = int(before.evidence[y + dy, x + dx])
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            flat = all(int(now.class_map[at]) == new for at in beside if inside(*at))
            best = new
            if new != shown or not flat:
                colour = now.planes[:, y, x]
                votes = cast(now, y, x, colour, 16)
                if known:
                    factor = voting.past + voting.trust * gathered
                    votes.update(cast(before, y + dy, x + dx, colour, factor))
                best = max(votes, key=lambda one: (votes[one], one == shown, one == new, -one))
            voted[y, x] = best
            if best != shown:
                evidence[y, x] = 0
            elif new != shown:
                evidence[y, x] = max(0, gathered - 1)
            else:
                evidence[y, x] = min(gathered + 1, voting.most_evidence)
    shown_map = voted.copy()
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            around = [voted[y - 1, x], voted[y + 1, x], voted[y, x - 1], voted[y, x + 1]]
            class_, count = Counter(map(int, around)).most_common(1)[0]
            if count >= 3:
                shown_map[y, x] = class_
    return shown_map, evidence


@st.composite
def votes(draw: st.DrawFn, largest: int = 40) -> tuple[Any, ...]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(16, largest)), draw(st.integers(16, largest))
    classes = draw(st.sampled_from([2, 5, 200]))
    wide = draw(st.booleans())
    kind = np.int32 if wide else np.uint8
    first = (
        draw(st.sampled_from([0, 1000, 2**31 - 300])) if wide else draw(st.sampled_from([0, 56]))
    )
    levels = draw(st.sampled_from([1, 40, 256]))
    patch = draw(st.sampled_from([1, 3, 9]))

    def frame() -> stabilise.Frame:
        maps = rng.integers(0, classes, (height, width)).repeat(patch, 0).repeat(patch, 1)
        return stabilise.Frame(
            rng.integers(0, levels, (3, height, width)).astype(np.uint8),
            np.ascontiguousarray(maps[:height, :width] + first).astype(kind),
            rng.integers(0, 256, (height, width)).astype(np.uint8),
        )

    cell = draw(st.integers(1, 7))
    far = draw(st.sampled_from([0, 3, 50, 2**15]))
    grid = (-(-height // cell), -(-width // cell), 2)
    motion = rng.integers(-far, max(1, far), grid).astype(np.int16)
    voting = stabilise.Voting(
        *(draw(st.integers(1, 255)), draw(st.integers(0, 255)), draw(st.integers(0, 255))),
        draw(st.integers(1, 255)),
    )
    return frame(), frame(), motion, cell, voting


def vote(case: tuple[Any, ...], threads: int | None = 1) -> tuple[np.ndarray, np.ndarray]:
    now, before, motion, cell, voting = case
    out = stabilise.Frame(
        now.planes, np.empty_like(now.class_map), np.empty(now.class_map.shape, np.uint8)
    )
    voted = np.empty_like(now.class_map)
    stabilise.stabilise(now, before, motion, cell, voting, voted, out, threads=threads)
    return out.class_map, out.evidence


def same(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@settings(max_examples=15, deadline=None)
@given(votes(largest=20))
def test_numpy_votes_as_the_slow_rule_says(case: tuple[Any, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.VARIABLE, "numpy")
        assert same(vote(case), slow_vote(*case))


@pytest.mark.skipif(not native.LIBRARY.is_file(), reason="no compiled kernels here")
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(case=votes())
def test_c_gives_the_bits_of_numpy(variant: str, case: tuple[Any, ...]) -> None:
    kernels, line = native.load(native.LIBRARY, variant)
    best, _ = native.load(native.LIBRARY)
    if kernels is None or (variant == "avx2" and best is not None and best.variant != "avx2"):
        pytest.skip(f"this processor or build lacks {variant}: {line}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernels", lambda: kernels)
        compiled = vote(case)
        patch.setattr(native, "kernels", lambda: None)
        assert same(vote(case), compiled)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stabilise, "_PIXELS_WORTH_A_THREAD", 1000)
    rng = np.random.default_rng(3)
    frames = [
        stabilise.Frame(
            rng.integers(0, 99, (3, 90, 70)).astype(np.uint8),
            rng.integers(0, 3, (90, 70)).astype(np.uint8),
            rng.integers(0, 5, (90, 70)).astype(np.uint8),
        )
        for _ in range(2)
    ]
    motion = rng.integers(-4, 5, (23, 18, 2)).astype(np.int16)
    case = (*frames, motion, 4, stabilise.Voting(24, 15, 2, 4))
    assert same(vote(case, threads=1), vote(case, threads=3))
