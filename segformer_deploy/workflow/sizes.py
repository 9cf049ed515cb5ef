"""Which network sizes an engine is built for: what was asked, else what the model's rule says."""

from __future__ import annotations

from dataclasses import dataclass

from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize, ModelSpec, ResizeRule

UNLIMITED = 1 << 16
DEFAULT_GOLDEN_SIZE = FrameSize(360, 480)
_USUAL = FrameSize(512, 512)
_LARGEST = FrameSize(1024, 2048)
"""Where a model takes frames as they come: the paper's usual crop, and Cityscapes."""
_SMALLEST = FrameSize(SMALLEST_NETWORK_SIDE, SMALLEST_NETWORK_SIDE)


@dataclass(frozen=True)
class AskedSizes:
    """Sizes as the command line has them.

    Attributes:
        opt: the network size: frames are stretched to it; None keeps the model's resize rule.
        min, max: smallest and largest network size to accept.
        batch: largest batch to accept.
        profiles: of a plan: several narrow ranges instead of one.
    """

    opt: FrameSize | None = None
    min: FrameSize | None = None
    max: FrameSize | None = None
    batch: int | None = None
    profiles: tuple[SizeRange, ...] = ()

    def __post_init__(self) -> None:
        if self.profiles and (self.opt or self.min or self.max):
            raise SpecError(
                "profiles and --min, --opt or --max at once", "one or the other: --profile says all"
            )


def limits(spec: ModelSpec, asked: AskedSizes) -> SizeRange | None:
    """For an ONNX file as it is: None where nothing was asked, since it takes any size."""
    if asked.min is None and asked.max is None and asked.batch is None:
        return None
    smallest = asked.min or _SMALLEST
    largest = asked.max or FrameSize(UNLIMITED, UNLIMITED)
    opt = asked.opt or spec.resize.size or asked.max or smallest
    return SizeRange(smallest, opt, largest, asked.batch or UNLIMITED)


def profiles(spec: ModelSpec, asked: AskedSizes) -> tuple[SizeRange, ...]:
    """For a plan, which is built for a range: the one asked for, else the resize rule's.

    A rule that stretches every frame to one size needs that size and no other, and a plan for
    one size is the smallest and fastest; a rule that keeps the ratio needs a range.
    """
    if asked.profiles:
        return asked.profiles
    batch = asked.batch or 1
    rule = _from_rule(spec.resize, batch)
    opt = asked.opt or spec.resize.size
    if opt is not None:
        return (SizeRange(asked.min or opt, opt, asked.max or opt, batch),)
    # No one size: what was not asked is the rule's, as far as what was asked leaves it.
    low, high = asked.min or rule.min, asked.max or rule.max
    low = low if asked.min else _smaller(low, high)
    high = high if asked.max else _larger(low, high)
    return (SizeRange(low, _smaller(_larger(rule.opt, low), high), high, batch),)


def spec_for(spec: ModelSpec, asked: AskedSizes) -> ModelSpec:
    """`spec` with the resize rule that goes with the sizes asked for.

    Frames are stretched to `opt`; and where a model stretches them to a size that none of the
    profiles holds, to the first profile's.
    """
    own = spec.resize.size
    if own is not None and asked.profiles and not any(one.holds(own, 1) for one in asked.profiles):
        return spec.stretched_to(asked.profiles[0].opt)
    return spec.stretched_to(asked.opt)


def _smaller(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(min(a.height, b.height), min(a.width, b.width))


def _larger(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(max(a.height, b.height), max(a.width, b.width))


def _from_rule(rule: ResizeRule, batch: int) -> SizeRange:
    if rule.mode == "stretch":
        assert rule.size is not None
        return SizeRange(rule.size, rule.size, rule.size, batch)
    if rule.mode == "none":
        return SizeRange(_SMALLEST, _USUAL, _LARGEST, batch)
    assert rule.short_side is not None
    short = rule.short_side
    longest = max(rule.long_side or 2 * short, short)
    return SizeRange(_SMALLEST, _of_a_camera(rule, short), FrameSize(short, longest), batch)


def _of_a_camera(rule: ResizeRule, short: int) -> FrameSize:
    try:
        return rule.network_size(FrameSize(1080, 1920))  # what most cameras give
    except FrameError:  # too low for the network; squares are not
        return FrameSize(short, short)


def whole_range(ranges: tuple[SizeRange, ...]) -> SizeRange:
    """The smallest range that holds all of `ranges`, tuned where the first one is."""
    smallest = FrameSize(
        min(one.min.height for one in ranges), min(one.min.width for one in ranges)
    )
    largest = FrameSize(max(one.max.height for one in ranges), max(one.max.width for one in ranges))
    return SizeRange(smallest, ranges[0].opt, largest, max(one.batch for one in ranges))


def golden_size(
    spec: ModelSpec, sizes: SizeRange | None, profiles: tuple[SizeRange, ...] = ()
) -> FrameSize:
    """A frame size that enters the network as it is, inside the range that was asked for.

    Of a plan: inside one of its profiles; `sizes` also holds what lies between them.
    """
    size = spec.resize.network_size(
        spec.resize.size or (sizes.opt if sizes else DEFAULT_GOLDEN_SIZE)
    )
    if sizes is not None:
        sizes.check(size, 1)
    if profiles and not any(one.holds(size, 1) for one in profiles):
        raise FrameError(
            f"network size {size}, which frames get by this model's rule: {spec.resize}",
            "a profile that holds it, of " + "; ".join(map(str, profiles)),
            f"add --profile {size}",
        )
    return size
