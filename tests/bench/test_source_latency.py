"""The stages of a real source's frames: which time is whose, and what is said of the source."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.measure import measure_case
from segformer_deploy.bench.source_frames import check_source, open_for_bench
from segformer_deploy.bench.source_latency import measure_source, overlay_drawer
from segformer_deploy.errors import InputError, MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Source, SourceKind
from segformer_deploy.video.overlay import Overlay
from tests.bench.fake_segmenters import FakeSegmenter, spec_of
from tests.little import write_little

MS = 1_000_000


class FakeClock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += round(ms * MS)


class FakeSource(Source):
    """Frame `n` takes `capture(n)`; the first is there already, as where it is read on opening."""

    def __init__(
        self, count: int, kind: SourceKind, capture: Callable[[int], object], opening: Any = None
    ) -> None:
        self.kind, self.path = kind, Path("fake")
        self.size, self.fps = FrameSize(4, 6), None
        self.frame_count: int | None = count
        self.corrupt, self.finished = 0, False
        self.notes: list[str] = []
        self._count, self._capture, self._opening = count, capture, opening

    def __iter__(self) -> Iterator[Frame]:
        if self._opening is not None:
            self._opening()
        for index in range(self._count):
            if index or self.kind in ("images", "image"):
                self._capture(index)
            yield Frame(np.full((4, 6, 3), index, np.uint8), index, None, str(index))

    def close(self) -> None:
        pass


class TellingSegmenter(FakeSegmenter):
    """Spends the given ms per stage on the clock and tells them, as the real one does."""

    def __init__(self, clock: FakeClock, stages: dict[str, float], aside: float = 0.0) -> None:
        def answer(frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
            clock.pass_ms(sum(stages.values()) + aside)
            return frame[..., 0] % 3

        super().__init__(answer, stages=stages)


CPU = {"preprocess": 2.0, "infer": 30.0, "class_map": 5.0}
GPU = {"class_map": 0.5, "copy_in": 1.0, "infer": 3.0, "copy_out": 0.25, "preprocess": 0.125}


@pytest.mark.parametrize("kind", ["video", "images", "stream"])
def test_each_stage_gets_its_own_time(kind: SourceKind) -> None:
    clock = FakeClock()
    source = FakeSource(8, kind, lambda _: clock.pass_ms(7))

    def draw(image: Any, class_map: Any) -> Any:
        assert (class_map == image[..., 0] % 3).all()
        clock.pass_ms(11)
        return image

    segment = TellingSegmenter(clock, CPU)
    report = measure_source(segment, source, draw, warmup=1, runs=6, clock=clock)
    video = report.to_dict()
    medians = {name: found["p50"] for name, found in video["stages_ms"].items()}
    assert medians == {"capture": 7, **CPU, "draw": 11}
    assert list(medians) == ["capture", "preprocess", "infer", "class_map", "draw"]
    assert video["latency_ms"]["p50"] == 7 + 37 + 11
    assert report.call.p50 == 37
    assert report.call.stage_samples_ms == {name: (ms,) * 6 for name, ms in CPU.items()}
    assert (report.whole.first_ms, report.call.first_ms) == (55, 37)
    assert video["stage_samples_ms"]["capture"] == [7] * 6


def test_the_stages_of_a_gpu_stand_in_the_order_in_which_they_run() -> None:
    clock = FakeClock()
    source = FakeSource(8, "images", lambda _: clock.pass_ms(7))
    segment = TellingSegmenter(clock, GPU, aside=0.5)
    report = measure_source(segment, source, None, warmup=0, runs=3, clock=clock)
    order = ["capture", "copy_in", "preprocess", "infer", "class_map", "copy_out"]
    assert list(report.to_dict()["stages_ms"]) == order
    # What lies between the stages belongs to none, and is in the whole.
    assert report.whole.p50 == 7 + sum(GPU.values()) + 0.5
    assert report.drawn is False


def test_a_gpu_that_tells_no_stages() -> None:
    clock = FakeClock()
    segment = TellingSegmenter(clock, {"queue": 1.0, "wait": 3.0})
    source = FakeSource(8, "images", lambda _: clock.pass_ms(7))
    report = measure_source(segment, source, None, warmup=0, runs=3, clock=clock)
    assert report.whole.stage_samples_ms == {"capture": (7.0,) * 3, "segment": (4.0,) * 3}
    assert any("--timed" in note for note in report.notes)
    assert report.call.stage_samples_ms == {}


@given(
    captures=st.lists(st.integers(0, 50), min_size=3, max_size=12),
    inner=st.integers(0, 40),
    draws=st.integers(0, 30),
)
def test_stages_of_a_frame_add_up_to_what_it_took(
    captures: list[int], inner: int, draws: int
) -> None:
    clock = FakeClock()
    source = FakeSource(len(captures), "images", lambda n: clock.pass_ms(captures[n]))
    segment = TellingSegmenter(clock, {"preprocess": 1, "infer": inner, "class_map": 2})

    def draw(image: Any, _map: Any) -> Any:
        clock.pass_ms(draws)
        return image

    report = measure_source(segment, source, draw, warmup=1, runs=20, clock=clock)
    whole, stages = report.whole, report.whole.stage_samples_ms
    assert whole.samples_ms == pytest.approx([sum(row) for row in zip(*stages.values())])  # noqa: B905
    assert list(stages["capture"]) == [captures[(n + 1) % len(captures)] for n in range(20)]


def test_a_film_is_read_again_without_the_time_of_opening_it() -> None:
    clock = FakeClock()
    source = FakeSource(4, "video", lambda _: clock.pass_ms(7), lambda: clock.pass_ms(500))
    report = measure_source(TellingSegmenter(clock, CPU), source, None, runs=10, clock=clock)
    assert set(report.whole.stage_samples_ms["capture"]) == {7.0}
    # Three of four frames a round: the first is decoded on opening.
    assert report.rounds == 5
    assert any("read 5 times" in note for note in report.notes)
    assert report.warnings == ()


def test_what_is_read_once_and_ends_early_is_said() -> None:
    clock = FakeClock()
    source = FakeSource(8, "stream", lambda _: clock.pass_ms(7))
    report = measure_source(TellingSegmenter(clock, CPU), source, None, runs=50, clock=clock)
    assert report.whole.runs == 4  # one read on opening, three to warm up
    assert "ended early: 4 frames were measured instead of 50 runs" in report.warnings[0]
    assert report.rounds == 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_an_end_within_the_warm_up(count: int) -> None:
    clock = FakeClock()
    source = FakeSource(count, "stream", lambda _: None)
    with pytest.raises(InputError, match="before the first one that counts"):
        measure_source(TellingSegmenter(clock, CPU), source, None, runs=5, clock=clock)


def test_one_frame_that_cannot_be_timed() -> None:
    clock = FakeClock()
    source = FakeSource(1, "video", lambda _: None)
    with pytest.raises(InputError, match="one frame only"):
        measure_source(TellingSegmenter(clock, CPU), source, None, runs=5, clock=clock)


def test_seconds_end_it_too() -> None:
    clock = FakeClock()
    source = FakeSource(3, "images", lambda _: clock.pass_ms(60))
    segment = TellingSegmenter(clock, {"infer": 40.0})
    report = measure_source(segment, source, None, warmup=5, seconds=1.0, clock=clock)
    assert report.whole.runs == 10


def test_frames_of_several_sizes_are_said(tmp_path: Path) -> None:
    for name, height in (("a", 8), ("b", 16)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((height, 8, 3), np.uint8))
    with open_for_bench(str(tmp_path)) as source:
        report = measure_source(FakeSegmenter(lambda f: f[..., 0]), source, None, runs=4)
    assert report.sizes == (FrameSize(16, 8), FrameSize(8, 8))
    assert any("2 sizes" in note for note in report.notes)


def film(path: Path, frames: int = 6) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 96, 64
        for index in range(frames):
            picture = np.full((64, 96, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def test_a_real_film_with_slow_parts(tmp_path: Path) -> None:
    """With the real clock: each delay is seen where it is, and nowhere else."""

    def answer(frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        time.sleep(0.03)
        return np.zeros(frame.shape[:2], np.uint8)

    def draw(image: Any, class_map: Any) -> Any:
        time.sleep(0.06)
        return overlay_drawer(spec_of("a", "b"))(image, class_map)

    segment = FakeSegmenter(answer, stages={"infer": 30.0})
    with open_for_bench(str(film(tmp_path / "film.mp4"))) as source:
        report = measure_source(segment, source, draw, warmup=2, runs=6)
    medians = {name: found["p50"] for name, found in report.to_dict()["stages_ms"].items()}
    assert medians["capture"] < 25
    assert 60 <= medians["draw"] < 85
    assert 30 <= report.call.p50 < 55
    assert report.whole.p50 == pytest.approx(
        medians["capture"] + report.call.p50 + medians["draw"], abs=2
    )
    assert report.rounds == 2


def test_the_overlay_is_the_one_that_run_draws() -> None:
    spec = spec_of("sky", "road")
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    class_map = np.zeros((120, 160), np.uint8)
    class_map[60:] = 1
    expected = Overlay(spec.palette, spec.class_names, legend=True).draw(
        image, class_map, opacity=0.5
    )
    np.testing.assert_array_equal(overlay_drawer(spec)(image, class_map), expected)


def test_a_case_on_a_film(tmp_path: Path) -> None:
    engine = write_little(tmp_path / "little.onnx")
    case = Case(
        str(engine), backend="onnxruntime", threads=1, runs=4, warmup=1,
        source=str(film(tmp_path / "film.mp4")),
    )  # fmt: skip
    result = measure_case(case)
    assert json.loads(json.dumps(result)) == result
    video = result["video"]
    assert (result["frame"], video["sizes"], video["kind"]) == ("64x96", ["64x96"], "video")
    assert list(video["stages_ms"]) == ["capture", "preprocess", "infer", "class_map", "draw"]
    assert all(len(values) == 4 for values in video["stage_samples_ms"].values())
    # The call's own figures keep their meaning: frame in memory to class map.
    assert list(result["stages_ms"]) == ["preprocess", "infer", "class_map"]
    for whole, call in zip(video["samples_ms"], result["samples_ms"], strict=True):
        assert whole > call


def test_streets_come_as_fast_as_they_are_drawn() -> None:
    with open_for_bench("test:seed=1,frames=7", FrameSize(64, 96)) as source:
        started = time.perf_counter()
        report = measure_source(FakeSegmenter(lambda f: f[..., 0]), source, None, runs=9)
        assert time.perf_counter() - started < 2  # 15 frames/s would not be seen; no wait is
    assert source.fps is None
    assert report.sizes == (FrameSize(64, 96),)
    assert report.whole.runs == 3
    assert "ended early" in report.warnings[0]


def test_sources_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stdin"):
        check_source("-", None)
    with pytest.raises(InputError, match="its own size"):
        check_source(str(tmp_path), FrameSize(64, 64))
    with pytest.raises(MediaError):
        open_for_bench(str(tmp_path / "none.mp4"))
    with pytest.raises(InputError, match="--source"):
        Case("a", draw=False)
    check_source("camera:0", FrameSize(64, 64))


def test_a_password_is_in_no_result() -> None:
    case = Case("a", source="rtsp://me:secret@host/path")
    assert "secret" not in json.dumps(case.recorded())
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case
