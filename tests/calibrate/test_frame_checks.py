"""Faulty calibration frames are noticed, honest ones left alone: 20 random draws of each."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from segformer_deploy.calibrate.frame_checks import ENOUGH, FrameChecker, FrameWarning
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import StreetVideo, street_frame

TRIALS = 20
SIZE = FrameSize(128, 160)
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])

Frame = np.ndarray
Frames = list[Frame]
Fault = Callable[[Frame, np.random.Generator], Frame]


@pytest.fixture(scope="module")
def streets() -> Frames:
    return [street_frame(20_000_000 + n, SIZE)[0][..., ::-1] for n in range(72)]


def draw(frames: Frames, random: np.random.Generator) -> Frames:
    chosen = random.choice(len(frames), int(random.integers(ENOUGH, 49)), replace=False)
    return [frames[n] for n in chosen]


def checked(frames: Frames) -> FrameChecker:
    checker = FrameChecker()
    for number, frame in enumerate(frames):
        checker.add(frame, f"frame{number}")
    return checker


def told(frames: Frames, evaluation: Frames | None = None) -> list[str]:
    seen = None if evaluation is None else checked(evaluation)
    return [warning.kind for warning in checked(frames).warnings(seen)]


def cast(values: np.ndarray) -> Frame:
    """Cast as a C program does: -1 becomes 255."""
    return values.astype(np.int64).astype(np.uint8)


def clipped(values: np.ndarray) -> Frame:
    return values.clip(0, 255).astype(np.uint8)


def jpeg(frame: Frame, quality: int) -> Frame:
    encoded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]


def enlarged(frame: Frame) -> Frame:
    return np.asarray(cv2.resize(frame, (240, 200)))


def night(frame: Frame) -> Frame:
    return clipped(255 * (frame / 255) ** 2.5 + 0.5)


def fog(frame: Frame) -> Frame:
    return clipped(190 + (frame - 190.0) * 0.2 + 0.5)


EACH: dict[str, tuple[str, Fault]] = {
    "divided by 255": ("scaled", lambda frame, _: (frame / 255).astype(np.uint8)),
    "divided by 255, rounded": ("scaled", lambda frame, _: (frame / 255).round().astype(np.uint8)),
    "normalised": ("scaled", lambda frame, _: cast((frame - MEAN) / STD)),
    "normalised, clipped": ("scaled", lambda frame, _: clipped((frame - MEAN) / STD)),
    "normalised, resized": ("scaled", lambda frame, _: enlarged(cast((frame - MEAN) / STD))),
    "to -1..1, resized": ("scaled", lambda frame, _: enlarged(cast((frame / 127.5 - 1).round()))),
    "uniform noise": ("noise", lambda frame, r: cast(r.integers(0, 256, frame.shape))),
    "gaussian noise": ("noise", lambda frame, r: clipped(r.normal(128, 40, frame.shape))),
    "grey noise": ("noise", lambda _, r: clipped(r.normal(128, 10, (128, 160, 1))).repeat(3, 2)),
    "noise as JPEG": ("noise", lambda frame, r: jpeg(cast(r.integers(0, 256, frame.shape)), 90)),
    "noise, resized": ("noise", lambda _, r: enlarged(cast(r.integers(0, 256, (128, 128, 3))))),
}
ONE: dict[str, Fault] = {
    "exactly": lambda frame, _: frame,
    "as JPEG": lambda frame, r: jpeg(frame, int(r.integers(50, 96))),
    "with sensor noise": lambda frame, r: clipped(frame + r.normal(0, 5, frame.shape)),
}


@pytest.mark.parametrize("fault", EACH)
def test_each_frame_spoilt_is_noticed(fault: str, streets: Frames) -> None:
    kind, spoil = EACH[fault]
    noticed = 0
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        noticed += kind in told([spoil(frame, random) for frame in draw(streets, random)])
    assert noticed >= 19


@pytest.mark.parametrize("fault", ONE)
def test_one_frame_repeated_is_noticed(fault: str, streets: Frames) -> None:
    noticed = 0
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        noticed += told([ONE[fault](streets[trial], random) for _ in range(40)]) == ["repeated"]
    assert noticed >= 19


@pytest.mark.parametrize("look", [np.asarray, night, fog])
def test_honest_frames_are_left_alone(look: Callable[[Frame], Frame], streets: Frames) -> None:
    frames = [look(frame) for frame in streets]
    alarms = sum(bool(told(draw(frames, np.random.default_rng(n)))) for n in range(TRIALS))
    assert alarms <= 1


@pytest.mark.parametrize("look", [np.asarray, night, fog])
def test_frames_of_one_drive_are_not_repeated(look: Callable[[Frame], Frame]) -> None:
    for seed in range(3):
        drive = iter(StreetVideo(30_000_000 + seed, SIZE, 30))
        assert told([look(next(drive)[0][..., ::-1]) for _ in range(40)]) == []


def test_frames_unlike_those_of_the_evaluation(streets: Frames) -> None:
    foggy = [fog(frame) for frame in streets]
    alarms = 0
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        one, other = draw(streets, random), draw(streets, random)
        alarms += bool(told(one, other))
        assert told([fog(frame) for frame in one], [clipped(0.3 * frame) for frame in other]) == [
            "unlike"
        ]
    assert alarms <= 1
    assert "brightness" in message(foggy, "unlike", [clipped(0.3 * frame) for frame in streets])


def test_swapped_against_the_evaluation(streets: Frames) -> None:
    """Told where all frames have a cast; without one, only the network can tell."""
    reddish = [clipped(frame * [0.3, 0.25, 0.2] + [140, 100, 50]) for frame in streets]
    assert told([frame[..., ::-1] for frame in reddish], reddish) == ["swapped"]
    assert told(reddish, reddish) == []


def message(frames: Frames, kind: str, evaluation: Frames | None = None) -> str:
    seen = None if evaluation is None else checked(evaluation)
    found = [w.message for w in checked(frames).warnings(seen) if w.kind == kind]
    assert len(found) == 1
    return found[0]


def test_few(streets: Frames) -> None:
    assert message(streets[:31], "few").startswith("31 frames to calibrate on; at least 32")
    assert told(streets[:32]) == []
    assert told([]) == ["few"]


def test_constant_frames_are_named(streets: Frames) -> None:
    frames = list(streets[:40])
    frames[3] = np.full_like(frames[3], 128)
    frames[17] = np.zeros_like(frames[17])
    frames[30] = np.broadcast_to(np.array([10, 200, 30], np.uint8), frames[30].shape)
    (warning,) = checked(frames).warnings()
    assert warning == FrameWarning("constant", warning.message, ("frame3", "frame17", "frame30"))
    assert "3 frames of 40 of one colour only: frame3, frame17, frame30" in warning.message


def test_a_few_black_frames_are_not_called_scaled(streets: Frames) -> None:
    black = np.zeros_like(streets[0])
    assert told([*streets[:3], black, black]) == ["few", "constant"]
    assert told([black] * 40) == ["constant", "scaled"]


def test_a_single_noise_frame_is_borne(streets: Frames) -> None:
    noise = np.random.default_rng(0).integers(0, 256, streets[0].shape).astype(np.uint8)
    assert told([*streets[:40], noise]) == []
    assert told([*streets[:20], *[noise] * 20]) == ["noise"]


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (256, 320), (512, 512)])
def test_noise_and_pictures_of_other_sizes(size: tuple[int, int], streets: Frames) -> None:
    """Fewer pixels in a block leave more of the noise in its mean."""
    height, width = size
    random = np.random.default_rng(0)
    noise = [cast(random.integers(0, 256, (height, width, 3))) for _ in range(2)]
    noise += [jpeg(noise[0], 75), clipped(random.normal(128, 20, (height, width, 1))).repeat(3, 2)]
    assert told(noise) == ["few", "noise"]
    pictures = [np.asarray(cv2.resize(frame, (width, height))) for frame in streets[:32]]
    assert told(pictures) == []


def test_a_copy_is_found_after_many_other_frames(streets: Frames) -> None:
    """Only so many frames are kept; the one that keeps coming back is among them."""
    frames = [frame for other in streets for frame in (streets[0], streets[0], other)]
    assert "so only 72 count" in message(frames, "repeated")


def test_memory_does_not_grow(streets: Frames) -> None:
    checker = FrameChecker()
    random = np.random.default_rng(0)
    for number in range(200):
        shifted = np.roll(streets[number % 72], int(random.integers(20, 140)), 1)
        checker.add(shifted, f"frame{number}")
    assert len(checker._kept) == 64
    assert checker.warnings() == []


def test_a_frame_may_be_a_view(streets: Frames) -> None:
    twice = np.repeat(np.repeat(streets[0], 2, 0), 2, 1)
    whole, view = FrameChecker(), FrameChecker()
    whole.add(np.ascontiguousarray(streets[0]), "a")
    view.add(twice[::2, ::2], "a")
    assert np.array_equal(whole._kept[0], view._kept[0])
