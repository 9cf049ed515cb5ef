"""The network notices swapped channels, and says nothing where it does not know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from segformer_deploy.calibrate.channel_order import channel_order_warning
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import street_frame

TRIALS = 20
Frame = np.ndarray
Run = Callable[[Frame], np.ndarray]


def red_lover(strength: float) -> Run:
    """Surer of class 0 the redder the frame."""

    def run(batch: Frame) -> np.ndarray:
        red = batch[:, ::4, ::4, 0].astype(np.float32)
        logits = np.zeros((len(batch), 4, *red.shape[1:]), np.float32)
        logits[:, 0] = strength * red / 255
        return logits

    return run


def coloured(count: int, colour: tuple[int, int, int]) -> list[Frame]:
    random = np.random.default_rng(0)
    return [
        np.clip(np.array(colour) + random.integers(-20, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def test_noticed_and_not() -> None:
    blue, red = coloured(16, (30, 90, 200)), coloured(16, (200, 90, 30))
    warning = channel_order_warning(red_lover(12), blue)
    assert warning is not None
    assert warning.kind == "swapped"
    assert "on 16 of 16 frames" in warning.message
    assert channel_order_warning(red_lover(12), red) is None


def test_a_network_that_guesses_is_not_believed() -> None:
    """As random weights do: the answer is nearly uniform, whatever colour it leans to."""
    assert channel_order_warning(red_lover(0.5), coloured(16, (30, 90, 200))) is None


def test_another_order_that_is_better_still_makes_it_doubtful() -> None:
    assert channel_order_warning(red_lover(12), coloured(16, (30, 240, 200))) is None


def test_grey_and_too_few_frames_say_nothing() -> None:
    assert channel_order_warning(red_lover(12), coloured(7, (30, 90, 200))) is None
    grey = [frame[..., :1].repeat(3, 2) for frame in coloured(16, (90, 90, 90))]
    assert channel_order_warning(red_lover(12), grey) is None


def test_what_the_network_is_asked() -> None:
    """At most 16 frames, shrunk to 320 pixels, a side never under 64; one frame a call."""
    shapes: list[tuple[int, ...]] = []
    love = red_lover(12)

    def run(batch: Frame) -> np.ndarray:
        assert batch.dtype == np.uint8
        assert batch.flags.c_contiguous
        shapes.append(batch.shape)
        return love(batch)

    wide = [np.tile(frame, (2, 20, 1)) for frame in coloured(3, (200, 90, 30))] * 10
    assert channel_order_warning(run, wide) is None
    assert shapes == [(1, 64, 640, 3)] * 32
    shapes.clear()
    large = [np.tile(frame, (8, 10, 1)) for frame in coloured(2, (30, 90, 200))] * 8
    channel_order_warning(run, large)
    assert set(shapes) == {(1, 256, 320, 3)}
    assert len(shapes) == 96


@pytest.mark.slow
def test_the_demo_model_on_streets() -> None:
    """20 draws of 16 frames each, in the right order and swapped."""
    path = shipped_file(ONNX_FILE)
    assert path is not None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers: dict[bytes, np.ndarray] = {}

    def run(batch: Frame) -> np.ndarray:
        key = batch.tobytes()
        if key not in answers:
            answers[key] = session.run(["logits"], {"image": batch})[0]
        return answers[key]

    size = FrameSize(192, 256)
    streets = [street_frame(20_000_000 + n, size)[0][..., ::-1] for n in range(48)]
    noticed = alarms = 0
    for trial in range(TRIALS):
        chosen = np.random.default_rng(trial).choice(len(streets), 16, replace=False)
        frames = [streets[n] for n in chosen]
        alarms += channel_order_warning(run, frames) is not None
        noticed += channel_order_warning(run, [frame[..., ::-1] for frame in frames]) is not None
    assert alarms <= 1
    assert noticed >= 19
