"""Which sizes a plan is built for: what was asked, else all that the model's rule can give."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segformer_deploy.cli.plan_options import bytes_of, profile_from_text
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import FrameError, InputError, SpecError
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize, ResizeRule
from segformer_deploy.workflow.sizes import (
    AskedSizes,
    golden_size,
    limits,
    profiles,
    spec_for,
    whole_range,
)
from tests.little import little_spec

SIDES = st.integers(64, 2200)
SIZES = st.builds(FrameSize, SIDES, SIDES)
BATCHES = st.none() | st.integers(1, 9)


@st.composite
def _ranges(draw: st.DrawFn) -> SizeRange:
    heights = sorted(draw(st.lists(SIDES, min_size=3, max_size=3)))
    widths = sorted(draw(st.lists(SIDES, min_size=3, max_size=3)))
    low, usual, high = map(FrameSize, heights, widths)
    return SizeRange(low, usual, high, draw(st.integers(1, 9)))


def exactly(text: str) -> SizeRange:
    size = FrameSize.parse(text)
    return SizeRange(size, size, size)


def for_rule(rule: ResizeRule, asked: AskedSizes | None = None) -> tuple[SizeRange, ...]:
    return profiles(little_spec(resize=rule), asked or AskedSizes())


def one(rule: ResizeRule, asked: AskedSizes | None = None) -> SizeRange:
    (found,) = for_rule(rule, asked)
    return found


# ---- from the model's rule -----------------------------------------------------------------------


@given(size=SIZES, frame=SIZES, batch=BATCHES)
def test_stretching_needs_one_size(size: FrameSize, frame: FrameSize, batch: int | None) -> None:
    rule = ResizeRule.stretch_to(size)
    found = one(rule, AskedSizes(batch=batch))
    assert (found.min, found.opt, found.max) == (size, size, size)
    assert found.batch == (batch or 1)
    assert found.holds(rule.network_size(frame), batch or 1)


@given(
    short=st.integers(64, 1100),
    extra=st.none() | st.integers(0, 1200),
    frame=st.builds(FrameSize, st.integers(32, 2400), st.integers(32, 4000)),
)
def test_the_short_side_takes_landscape_frames(
    short: int, extra: int | None, frame: FrameSize
) -> None:
    """Up to the long side that the rule states; without one, up to twice as wide as high."""
    long = None if extra is None else short + extra
    rule = ResizeRule("short_side", None, short, long)
    found = one(rule)
    assert found.min.height <= found.opt.height <= found.max.height
    assert found.min.width <= found.opt.width <= found.max.width
    assume(frame.height <= frame.width)
    assume(long is not None or frame.width <= 2 * frame.height)
    try:
        size = rule.network_size(frame)
    except FrameError:
        return  # too low for any network
    assert found.holds(size, 1), (size, found)


@pytest.mark.parametrize(
    "frame", ["480x640", "720x1280", "1080x1920", "2160x3840", "600x800", "1024x2048", "512x512"]
)
@pytest.mark.parametrize(("short", "long"), [(512, 2048), (512, None), (1024, 2048), (720, 1280)])
def test_cameras(frame: str, short: int, long: int | None) -> None:
    rule = ResizeRule("short_side", None, short, long)
    assert one(rule).holds(rule.network_size(FrameSize.parse(frame)), 1)


def test_frames_as_they_come() -> None:
    found = one(ResizeRule("none", None))
    assert found.min == FrameSize(SMALLEST_NETWORK_SIDE, SMALLEST_NETWORK_SIDE)
    for frame in ("64x64", "360x480", "512x512", "480x640", "720x1280", "1024x2048"):
        assert found.holds(FrameSize.parse(frame), 1)


# ---- asked for -----------------------------------------------------------------------------------

_RULES = st.sampled_from(
    [
        ResizeRule("none", None),
        ResizeRule.stretch_to(FrameSize(512, 512)),
        ResizeRule("short_side", None, 512, 2048),
    ]
)


@given(rule=_RULES, sides=st.lists(st.tuples(SIDES, SIDES), min_size=3, max_size=3), batch=BATCHES)
def test_what_is_asked_is_built(
    rule: ResizeRule, sides: list[tuple[int, int]], batch: int | None
) -> None:
    heights, widths = sorted(a for a, _ in sides), sorted(b for _, b in sides)
    low, usual, high = map(FrameSize, heights, widths)
    found = one(rule, AskedSizes(usual, low, high, batch))
    assert found == SizeRange(low, usual, high, batch or 1)


@given(rule=_RULES, size=SIZES, batch=BATCHES)
def test_one_size_asked_is_one_size_built(
    rule: ResizeRule, size: FrameSize, batch: int | None
) -> None:
    found = one(rule, AskedSizes(opt=size, batch=batch))
    assert found == SizeRange(size, size, size, batch or 1)


@given(low=SIZES, high=SIZES)
def test_an_order_that_is_none_is_refused(low: FrameSize, high: FrameSize) -> None:
    assume(low.height > high.height or low.width > high.width)
    with pytest.raises(SpecError, match="min"):
        one(ResizeRule("none", None), AskedSizes(min=low, max=high, opt=high))


@given(rule=_RULES, several=st.lists(_ranges(), max_size=4))
def test_profiles_that_are_asked_for_are_taken_as_they_are(
    rule: ResizeRule, several: list[SizeRange]
) -> None:
    expected = tuple(several) or for_rule(rule)
    assert for_rule(rule, AskedSizes(profiles=tuple(several))) == expected


@pytest.mark.parametrize("name", ["opt", "min", "max"])
def test_profiles_and_a_range_at_once(name: str) -> None:
    size = FrameSize(64, 64)
    with pytest.raises(SpecError, match="at once"):
        AskedSizes(profiles=(SizeRange(size, size, size),), **{name: size})  # type: ignore[arg-type]


@given(st.lists(_ranges(), min_size=1, max_size=4))
def test_the_whole_range_holds_every_profile(several: list[SizeRange]) -> None:
    whole = whole_range(tuple(several))
    for each in several:
        for size in (each.min, each.opt, each.max):
            assert whole.holds(size, each.batch)
    assert whole.opt == several[0].opt
    # And no more than that: each of its ends is one of theirs.
    assert whole.max.height in [each.max.height for each in several]
    assert whole.min.width in [each.min.width for each in several]
    assert whole_range((whole,)) == whole


def test_a_graph_that_takes_any_size_is_limited_only_where_asked() -> None:
    spec = little_spec()
    assert limits(spec, AskedSizes()) is None
    assert limits(spec, AskedSizes(opt=FrameSize(64, 64))) is None
    limited = limits(spec, AskedSizes(max=FrameSize(128, 128)))
    assert limited is not None
    assert limited.holds(FrameSize(64, 96), 1000)
    assert not limited.holds(FrameSize(64, 129), 1)


# ---- golden frames -------------------------------------------------------------------------------


@given(rule=_RULES, several=st.lists(_ranges(), min_size=1, max_size=3))
def test_golden_frames_enter_as_they_are_through_one_profile(
    rule: ResizeRule, several: list[SizeRange]
) -> None:
    spec, chosen = little_spec(resize=rule), tuple(several)
    whole = whole_range(chosen)
    try:
        size = rule.network_size(rule.size or whole.opt)
    except FrameError:
        assume(False)
    if any(each.holds(size, 1) for each in chosen):
        assert golden_size(spec, whole, chosen) == size
        assert rule.network_size(size) == size
    else:
        with pytest.raises(FrameError, match=str(size)) as caught:
            golden_size(spec, whole, chosen)
        assert "--" in caught.value.next_step


def test_a_size_between_two_profiles_is_refused_before_anything_is_built() -> None:
    spec = little_spec(resize=ResizeRule.stretch_to(FrameSize(96, 96)))
    ends = tuple(SizeRange(s, s, s) for s in (FrameSize(64, 64), FrameSize(128, 128)))
    with pytest.raises(FrameError, match="96x96") as caught:
        golden_size(spec, whole_range(ends), ends)
    assert "64x64; 128x128" in caught.value.expected
    assert "--profile 96x96" in caught.value.next_step


# ---- as text -------------------------------------------------------------------------------------


@given(_ranges())
def test_a_profile_as_text(each: SizeRange) -> None:
    text = f"{each.min},{each.opt},{each.max}"
    assert profile_from_text(text, each.batch) == each
    fixed = profile_from_text(str(each.opt), 1)
    assert fixed == SizeRange(each.opt, each.opt, each.opt)


@pytest.mark.parametrize(
    "text",
    ["", ",", "64x64,96x96", "64,64,64,64", "64x64,,96x96", "a", "96,64,128", "0x64", "64x-1", "x"],
)
def test_what_is_no_profile(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        profile_from_text(text, 1)
    assert caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("256M", 256 << 20),
        ("1.5G", 3 << 29),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("64KiB", 64 << 10),
        ("64 MB", 64 << 20),
        (" 10B ", 10),
        ("0.5K", 512),
    ],
)
def test_memory_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "M", "256X", "-1M", "1e6", "1,5G", "256 M M", "nan", "inf", "0x10", "1.G", ".5G"),
        *("0", "0M", "0.5", "9" * 400, "9" * 20, "99999999999G"),
    ],
)
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(InputError, match="a memory size of"):
        bytes_of(text)


@given(st.integers(1, 1 << 50))
def test_bytes_are_bytes(count: int) -> None:
    assert bytes_of(str(count)) == count


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (AskedSizes(), "512x512"),
        (AskedSizes(opt=FrameSize(64, 96)), "64x96"),
        (AskedSizes(profiles=(exactly("640x640"), exactly("512x512"))), "512x512"),
        (AskedSizes(profiles=(exactly("640x640"), exactly("256x256"))), "640x640"),
    ],
)
def test_frames_are_stretched_to_a_size_that_a_profile_holds(asked: AskedSizes, size: str) -> None:
    spec = little_spec(resize=ResizeRule.stretch_to(FrameSize(512, 512), "opencv-bilinear"))
    rule = spec_for(spec, asked).resize
    assert (rule.size, rule.filter) == (FrameSize.parse(size), "opencv-bilinear")


def test_a_model_that_keeps_the_ratio_is_not_stretched_by_a_profile() -> None:
    spec = little_spec(resize=ResizeRule("short_side", None, 512, 1024))
    assert spec_for(spec, AskedSizes(profiles=(exactly("64x64"),))) == spec


@pytest.mark.parametrize("mode", ["none", "short_side"])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((None, "64x64"), ("96x128", None), ("96x128", "2000x3000"), ("1100x2100", None)),
        *((None, "80x80"), ("1100x2100", "2000x3000"), (None, "2000x3000"), (None, None)),
    ],
)
def test_what_was_not_asked_is_the_rules(mode: str, low: str | None, high: str | None) -> None:
    rule = ResizeRule("none", None) if mode == "none" else ResizeRule("short_side", None, 512, 1024)
    smallest = None if low is None else FrameSize.parse(low)
    largest = None if high is None else FrameSize.parse(high)
    (free,) = profiles(little_spec(resize=rule), AskedSizes())
    (one,) = profiles(little_spec(resize=rule), AskedSizes(min=smallest, max=largest))
    assert one.min == smallest or (low is None and one.min <= free.min)
    assert one.max == largest or (high is None and one.max >= free.max)
