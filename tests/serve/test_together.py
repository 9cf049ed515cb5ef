"""Requests of several clients in as few calls as their sizes allow; a wrong one fails alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.engine.session import Array
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import FrameError, MediaError, RunError, SegdeployError
from segformer_deploy.serve.together import Asked, segment_together
from segformer_deploy.spec import FrameSize, ResizeRule

Frame = npt.NDArray[np.uint8]


class Counted:
    """The red channel of a frame is its class map; every call is noted."""

    def __init__(self, rule: ResizeRule, tiling: object = None) -> None:
        self.pixel_format, self.tiling, self.rule = "bgr", tiling, rule
        self.calls: list[list[FrameSize]] = []

    def network_size(self, frame: FrameSize) -> FrameSize:
        return self.rule.network_size(frame)

    def __call__(self, frames: list[Frame]) -> list[Array]:
        self.calls.append([FrameSize(*frame.shape[:2]) for frame in frames])
        channel = 2 if self.pixel_format == "bgr" else 0
        return [frame[..., channel].copy() for frame in frames]


STRETCH = ResizeRule.stretch_to(FrameSize(64, 96))
NONE = ResizeRule("none", None)


def frames(seed: int, height: int, width: int, count: int = 1) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(64, 96), (80, 64), (16, 16), (70, 200)]),
            st.integers(1, 3),
            st.sampled_from(["bgr", "rgb"]),
        ),
        max_size=8,
    ),
    st.sampled_from([STRETCH, NONE]),
)
def test_the_same_as_one_by_one_in_one_call_per_network_size(
    wanted: list[tuple[tuple[int, int], int, str]], rule: ResizeRule
) -> None:
    segment = Counted(rule)
    asked = [
        Asked(frames(seed, *size, count), order) for seed, (size, count, order) in enumerate(wanted)
    ]
    answers = segment_together(segment, asked)
    right = [one for one in asked if one.frames[0].shape[0] >= 32]
    for one, answer in zip(asked, answers, strict=True):
        if one not in right:
            assert isinstance(answer, FrameError)
            assert "16x16" in str(answer)
            continue
        channel = 2 if one.pixel_format == "bgr" else 0
        assert isinstance(answer, np.ndarray)
        np.testing.assert_array_equal(answer, np.stack(one.frames)[..., channel])
    keys = {
        (rule.network_size(FrameSize(*one.frames[0].shape[:2])), one.pixel_format) for one in right
    }
    assert len(segment.calls) == len(keys)
    assert sum(map(len, segment.calls)) == sum(len(one.frames) for one in right)


def test_windows_want_frames_of_one_size() -> None:
    whole, tiled = Counted(STRETCH), Counted(STRETCH, tiling="windows")
    asked = [Asked(frames(0, 64, 96)), Asked(frames(1, 80, 120)), Asked(frames(2, 64, 96))]
    for segment in (whole, tiled):
        segment_together(segment, asked)
    assert len(whole.calls) == 1
    assert tiled.calls == [[FrameSize(64, 96)] * 2, [FrameSize(80, 120)]]


def test_what_goes_wrong_in_a_call_fails_those_in_it_and_no_others() -> None:
    class Broken(Counted):
        def __call__(self, frames: list[Frame]) -> list[Array]:
            if frames[0].shape[0] == 80:
                raise ValueError("a bug of ours")
            if frames[0].shape[0] == 96:
                raise RunError("NaN in the logits")
            return super().__call__(frames)

    noted: list[str] = []
    unread = MediaError("not a picture")
    asked: list[Asked | SegdeployError] = [
        Asked(frames(0, 64, 96)),
        Asked(frames(1, 80, 96)),
        unread,
        Asked(frames(2, 96, 96)),
        Asked(frames(3, 80, 96)),
        Asked(frames(4, 64, 96)),
    ]
    answers = segment_together(Broken(NONE), asked, on_surprise=noted.append)
    assert [isinstance(one, np.ndarray) for one in answers] == [1, 0, 0, 0, 0, 1]
    assert answers[2] is unread
    assert str(answers[3]) == "NaN in the logits"
    assert "ValueError: a bug of ours" in str(answers[1])
    assert answers[1] is answers[4]
    assert "Traceback" in noted[0]
    assert len(noted) == 1


def test_sizes_outside_the_engines_range_are_said_before_the_call() -> None:
    allowed = SizeRange(FrameSize(64, 64), FrameSize(64, 64), FrameSize(64, 96))
    segment = Counted(NONE)
    asked = [Asked(frames(0, 64, 64)), Asked(frames(1, 128, 64))]
    good, bad = segment_together(segment, asked, allowed)
    assert isinstance(good, np.ndarray)
    assert "network size 128x64" in str(bad)
    assert segment.calls == [[FrameSize(64, 64)]]


def test_requests_that_cannot_be_answered_in_one_array() -> None:
    with pytest.raises(FrameError, match="pictures of several sizes in one request: 64x96, 80x64"):
        Asked([*frames(0, 64, 96), *frames(1, 80, 64)])
    with pytest.raises(FrameError, match="pixel format 'nv12'"):
        Asked(frames(0, 64, 96), "nv12")
