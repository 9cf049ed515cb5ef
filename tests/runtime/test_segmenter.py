"""Segmenter: what goes in, what comes out, what it owns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.engine.session import FakeEngine
from segformer_deploy.errors import FrameError, RunError, SpecError, VerificationError
from segformer_deploy.runtime import golden
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.little import little_logits, little_spec, write_little

NATIVE = little_spec(resize=ResizeRule("none", None))


def block_means(image: np.ndarray) -> np.ndarray:
    """The little network on a batch: uint8 RGB `[B, H, W, 3]` -> logits."""
    return np.stack([little_logits(one) for one in image]).astype(np.float32)


def frame(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def expected_class_map(bgr: np.ndarray) -> np.ndarray:
    """Upsample the logits in float64, then argmax: straight from the definition."""
    logits = little_logits(bgr[:, :, ::-1])
    for axis in (1, 2):
        length = logits.shape[axis]
        at = np.clip((np.arange(4 * length) + 0.5) / 4 - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        logits = np.take(logits, low, axis) * (1 - share) + np.take(logits, high, axis) * share
    return logits.argmax(0)


def test_class_map_at_the_frames_own_size() -> None:
    with Segmenter(FakeEngine(block_means, 3), spec=NATIVE) as segment:
        one = frame()
        answer = segment(one)
        assert answer.dtype == np.uint8
        assert answer.shape == (64, 96)
        assert np.mean(answer == expected_class_map(one)) > 0.9999


def test_bgr_and_rgb_are_what_they_say() -> None:
    one = frame()
    with Segmenter(FakeEngine(block_means, 3), spec=NATIVE) as bgr:
        expected = bgr(one)
    with Segmenter(FakeEngine(block_means, 3), spec=NATIVE, pixel_format="rgb") as rgb:
        assert np.array_equal(rgb(np.ascontiguousarray(one[:, :, ::-1])), expected)
        assert not np.array_equal(rgb(one), expected)


def test_a_list_is_a_batch_with_the_same_answers() -> None:
    frames = [frame(seed=seed) for seed in range(3)]
    engine = FakeEngine(block_means, 3)
    with Segmenter(engine, spec=NATIVE) as segment:
        singles = [segment(one) for one in frames]
        batch = segment(frames)
    assert all(np.array_equal(a, b) for a, b in zip(singles, batch, strict=True))


def test_frames_of_several_sizes_in_one_list_need_one_network_size() -> None:
    mixed = [frame(64, 96), frame(128, 96)]
    with Segmenter(FakeEngine(block_means, 3), spec=NATIVE) as segment:
        with pytest.raises(FrameError, match="different sizes"):
            segment(mixed)
    with Segmenter(FakeEngine(block_means, 3), spec=little_spec()) as segment:
        assert [answer.shape for answer in segment(mixed)] == [(64, 96), (128, 96)]


def test_answers_are_the_callers_to_keep() -> None:
    with Segmenter(FakeEngine(block_means, 3), spec=NATIVE) as segment:
        first = segment(frame(seed=1))
        copy = first.copy()
        segment(frame(seed=2))
        assert np.array_equal(first, copy)


def test_confidence_is_the_softmax_of_the_winner() -> None:
    level = np.array([1.0, 3.0, 2.0], np.float32)
    constant = FakeEngine(
        lambda image: np.broadcast_to(level[None, :, None, None], (1, 3, 16, 24)).copy(), 3
    )
    with Segmenter(constant, spec=NATIVE) as segment:
        class_map, confidence = segment(frame(), confidence=True)
    assert (class_map == 1).all()
    np.testing.assert_allclose(confidence, np.exp(3.0) / np.exp(level).sum(), rtol=1e-5)


def test_size_overrides_the_rule_and_stages_are_timed() -> None:
    seen: list[tuple[int, ...]] = []

    def note(image: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        return block_means(image)

    with Segmenter(FakeEngine(note, 3), spec=NATIVE, size=FrameSize(128, 160)) as segment:
        assert segment(frame()).shape == (64, 96)
        assert set(segment.last_stages_ms) == {"preprocess", "infer", "class_map"}
    assert seen == [(1, 128, 160, 3)]


def test_a_class_map_graph_passes_through_at_its_own_size_only() -> None:
    spec = little_spec(output="class_map")
    engine = FakeEngine(lambda image: image.argmax(3).astype(np.uint8), 3, output="class_map")
    with Segmenter(engine, spec=spec) as segment:
        one = frame()
        assert np.array_equal(segment(one), one[:, :, ::-1].argmax(2))
        with pytest.raises(FrameError, match="class map at 64x96"):
            segment(frame(128, 192))
        with pytest.raises(RunError, match="confidence"):
            segment(one, confidence=True)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float32),
        np.zeros((20, 64, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(bad: np.ndarray) -> None:
    with Segmenter(FakeEngine(block_means, 3), spec=little_spec()) as segment:
        with pytest.raises(FrameError):
            segment(bad)


@pytest.mark.parametrize("bad", [None, 5, "frame.png"])
def test_what_is_no_frame_is_a_frame_error(bad: object) -> None:
    with Segmenter(FakeEngine(block_means, 3), spec=little_spec()) as segment:
        with pytest.raises(FrameError, match=type(bad).__name__):
            segment(bad)  # type: ignore[call-overload]


def test_a_user_without_a_home_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    for _ in range(2):
        with Segmenter(folder) as segment:
            assert segment.first_load_agreement == 1.0


def test_a_loaded_engine_needs_a_spec() -> None:
    with pytest.raises(SpecError):
        Segmenter(FakeEngine(block_means, 3))


# First load ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx = write_little(tmp_path / "little.onnx")
    return build_engine(onnx, BuildOptions(output=tmp_path / "engine")).folder


def test_golden_frames_are_checked_once_per_machine(folder: Path) -> None:
    with Segmenter(folder) as segment:
        assert segment.first_load_agreement == 1.0
    with Segmenter(folder) as segment:
        assert segment.first_load_agreement is None


def test_an_engine_that_answers_wrongly_here_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = golden.check_golden

    def shifted(folder: Path, manifest: object, segment: object) -> float:
        return true(folder, manifest, lambda one: (segment(one) + 1) % 3)  # type: ignore[operator, arg-type]

    monkeypatch.setattr(golden, "check_golden", shifted)
    with pytest.raises(VerificationError, match="wrong masks on this device"):
        Segmenter(folder)


def test_a_home_that_cannot_be_written_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        with Segmenter(folder) as segment:
            assert segment.first_load_agreement == 1.0


def test_golden_frames_are_the_same_everywhere() -> None:
    import hashlib

    digest = hashlib.sha256(golden.golden_frame(FrameSize(96, 128), 0).tobytes()).hexdigest()
    assert digest[:16] == "02cb892bdff028ff"
