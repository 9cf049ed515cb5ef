"""Sizes that an engine takes: what lies inside, what is said of what does not."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segformer_deploy.engine.size_range import SizeRange, size_range_from_dict
from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.spec import FrameSize

SIZES = st.builds(FrameSize, st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def ranges(draw: st.DrawFn) -> SizeRange:
    heights = sorted(draw(st.lists(st.integers(1, 5000), min_size=3, max_size=3)))
    widths = sorted(draw(st.lists(st.integers(1, 5000), min_size=3, max_size=3)))
    low, usual, high = map(FrameSize, heights, widths)
    return SizeRange(low, usual, high, draw(st.integers(1, 16)))


@given(SIZES, SIZES, SIZES)
def test_a_range_is_in_order_in_both_directions(a: FrameSize, b: FrameSize, c: FrameSize) -> None:
    in_order = a.height <= b.height <= c.height and a.width <= b.width <= c.width
    if in_order:
        assert SizeRange(a, b, c).fixed == (a == c)
    else:
        with pytest.raises(SpecError, match="min"):
            SizeRange(a, b, c)


@given(ranges())
def test_it_holds_its_own_ends(one: SizeRange) -> None:
    for size in (one.min, one.opt, one.max):
        for batch in (1, one.batch):
            assert one.holds(size, batch)
            one.check(size, batch)
        assert not one.holds(size, one.batch + 1)
    assert not one.holds(FrameSize(one.max.height + 1, one.max.width), 1)
    assert not one.holds(FrameSize(one.max.height, one.max.width + 1), 1)
    assert size_range_from_dict(one.to_dict()) == one


@given(ranges(), SIZES, st.integers(1, 20))
def test_a_size_outside_is_told_what_would_hold_it(
    one: SizeRange, size: FrameSize, batch: int
) -> None:
    if one.holds(size, batch):
        one.check(size, batch)
        return
    with pytest.raises(FrameError) as caught:
        one.check(size, batch)
    words = shlex.split(caught.value.next_step)
    assert words[:2] == ["segdeploy", "build-engine"]
    if "--batch" in words:
        assert words[words.index("--batch") + 1] == str(batch)
        return
    low, high = (FrameSize.parse(words[words.index(name) + 1]) for name in ("--min", "--max"))
    assume(low.height <= one.opt.height)
    wider = SizeRange(low, one.opt, high)
    for inside in (size, one.min, one.max):
        assert wider.holds(inside, 1)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_none_is_refused(batch: int) -> None:
    size = FrameSize(64, 64)
    with pytest.raises(SpecError, match=f"batch {batch}"):
        SizeRange(size, size, size, batch)


@pytest.mark.parametrize("batch", [True, 1.0, "1", None])
def test_a_batch_in_a_manifest_is_a_whole_number(batch: object) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(batch))):
        size_range_from_dict({"min": "64", "opt": "64", "max": "64", "batch": batch})


def test_it_reads_well() -> None:
    size, large = FrameSize(64, 96), FrameSize(128, 96)
    assert str(SizeRange(size, size, size)) == "64x96"
    assert str(SizeRange(size, size, large, 4)) == (
        "64x96 to 128x96, tuned for 64x96, batch up to 4"
    )
