"""From opening to closing: threads, early ends, Ctrl-C, and use after the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.cuda_python import CudaPythonDriver
from segformer_deploy.errors import FrameError, RunError
from segformer_deploy.runtime.closing import close_all
from segformer_deploy.runtime.device_segment import DeviceSegment
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.runtime.gpu import Gpu, OnDevice, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))
GIVEN = [*frames(5, 40, 50), *frames(3, 61, 33, seed=1)]
MAKING = ("Alloc", "Create", "Load", "Instantiate", "EndCapture")
"""After these Ctrl-C may come before anyone holds what was made."""
INSIDE = ("cuDevicePrimaryCtxRetain",)
"""Steps in the midst of something of the binding's own."""


@pytest.fixture
def expected(host_gpu: Gpu) -> list[Any]:
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        found = [cpu(frame) for frame in GIVEN]
    engine.close()
    return found


def test_two_threads_with_a_context_each(host_gpu: Gpu, expected: list[Any]) -> None:
    """Segmenters of one engine, each in a thread that did not open it."""
    engine, found = host_gpu.engine(network(CLASSES)), {}
    segmenters = [Segmenter(engine, spec=SPEC, device="cuda") for _ in range(3)]
    start = threading.Barrier(3)

    def work(number: int) -> None:
        start.wait()
        with segmenters[number] as segment:
            found[number] = [one for _ in range(4) for _, one in segment.stream(GIVEN)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    for answers in found.values():
        for one, other in zip(answers, expected * 4, strict=True):
            np.testing.assert_array_equal(one, other)
    engine.close()


def test_closing_twice_and_using_it_afterwards(host_gpu: Gpu) -> None:
    engine = host_gpu.engine(network(CLASSES))
    segment = Segmenter(engine, spec=SPEC, device="cuda")
    segment(GIVEN[0], confidence=True)
    device = segment._gpu
    assert device is not None
    ticket = device.submit([GIVEN[0]], "bgr")
    held = host_gpu.held
    segment.close()
    segment.close()
    rest = host_gpu.held
    assert rest < held
    uses: list[Callable[[], object]] = [
        lambda: segment(GIVEN[0]),
        lambda: segment(GIVEN[:2]),
        lambda: segment(GIVEN[0], confidence=True),
        lambda: list(segment.stream(GIVEN)),
        lambda: device.collect(ticket),
    ]
    for use in uses:
        with pytest.raises(RunError, match="a closed segmenter was used"):
            use()
        assert host_gpu.held == rest
    engine.close()
    engine.close()


def test_an_engine_that_closes_first(host_gpu: Gpu, expected: list[Any]) -> None:
    """A segmenter that is at work goes on; a new one is refused, and keeps nothing."""
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        segment(GIVEN[0])
        engine.close()
        np.testing.assert_array_equal(segment(GIVEN[1]), expected[1])
        with Segmenter(engine, spec=SPEC, device="cuda") as late:
            with pytest.raises(RunError, match="a closed engine was asked for a session"):
                late(GIVEN[0])


def test_a_frame_beside_a_stream(host_gpu: Gpu, expected: list[Any]) -> None:
    """While others of the stream are under way; also a frame of another size, with confidence."""
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for number, (_, found) in enumerate(segment.stream(GIVEN)):
            np.testing.assert_array_equal(found, expected[number])
            np.testing.assert_array_equal(segment(GIVEN[-1]), expected[-1])
            beside, _ = segment(GIVEN[0], confidence=True)
            np.testing.assert_array_equal(beside, expected[0])
    engine.close()


def test_too_many_at_once_and_a_ticket_given_twice(host_gpu: Gpu, expected: list[Any]) -> None:
    engine = host_gpu.engine(network(CLASSES))
    segment = DeviceSegment(engine, SPEC, SPEC.resize)
    tickets = [segment.submit([GIVEN[number]], "bgr") for number in range(3)]
    with pytest.raises(RunError, match="3 frames are in flight") as caught:
        segment.submit([GIVEN[3]], "bgr")
    assert "at most 3" in caught.value.expected
    for number in (2, 0, 1):
        ((found, _),) = segment.collect(tickets[number])
        np.testing.assert_array_equal(found, expected[number])
        with pytest.raises(RunError, match="not in flight"):
            segment.collect(tickets[number])
    segment.close()
    engine.close()


@pytest.mark.parametrize("taken", [0, 1, 2, 5, 8])
def test_a_stream_that_is_left_early(host_gpu: Gpu, expected: list[Any], taken: int) -> None:
    """What is under way lands, and the next stream begins with its own frames."""
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        stream = segment.stream(GIVEN)
        for _ in range(taken):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert segment._gpu is not None
        assert segment._gpu._pipeline(confidence=False).in_flight == 0
        found = [class_map for _, class_map in segment.stream(GIVEN[::-1])]
        for one, other in zip(found, expected[::-1], strict=True):
            np.testing.assert_array_equal(one, other)
    engine.close()


@pytest.mark.parametrize(("error", "answers"), [(KeyboardInterrupt, 1), (ValueError, 4)])
def test_a_source_that_breaks_off(
    host_gpu: Gpu, expected: list[Any], error: Any, answers: int
) -> None:
    """All frames before an error are answered first, as on the CPU; Ctrl-C does not wait."""
    got: list[Any] = []

    def source() -> Iterator[Any]:
        yield from GIVEN[:4]
        raise error

    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        with pytest.raises(error):
            got.extend(class_map for _, class_map in segment.stream(source()))
        assert len(got) >= answers
        for one, other in zip(got, expected, strict=False):
            np.testing.assert_array_equal(one, other)
        got.clear()
        with pytest.raises(FrameError):
            got.extend(class_map for _, class_map in segment.stream([*GIVEN[:2], GIVEN[0][:0]]))
        assert len(got) == 2
        np.testing.assert_array_equal(segment(GIVEN[0]), expected[0])
    engine.close()


@contextmanager
def interrupted_after(call: int) -> Iterator[list[str]]:
    """Ctrl-C where Python looks for it: when call `call` of the driver comes back."""
    usual, made, over = CudaPythonDriver._call, [], False

    def counted(driver: CudaPythonDriver, name: str, *arguments: Any) -> Any:
        answer = usual(driver, name, *arguments)
        if over or name.startswith(INSIDE):
            return answer
        made.append(name)
        if len(made) == call:
            raise KeyboardInterrupt
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaPythonDriver, "_call", counted)
        try:
            yield made
        finally:
            over = True  # what was opened meanwhile keeps this call


def test_control_c_at_any_call_of_a_stream(host_gpu: Gpu, expected: list[Any]) -> None:
    """It comes out as itself, nothing stays, and the segmenter could even go on."""
    host, call = host_gpu.host, 0
    while True:
        call += 1
        host.reset(1)
        engine = host_gpu.engine(network(CLASSES))
        with Segmenter(engine, spec=SPEC, device="cuda") as segment:
            interrupted = False
            with interrupted_after(call) as made:
                try:
                    list(segment.stream(GIVEN))
                except KeyboardInterrupt:
                    interrupted = True
                name = made[call - 1] if interrupted else ""
            if interrupted and call % 7 == 0:
                for number in (6, 1):
                    np.testing.assert_array_equal(segment(GIVEN[number]), expected[number])
        engine.close()
        if not interrupted:
            break
        assert (host.held, host.host_held, host.retained, host.streams) == (0, 0, 0, 0), name
        assert host.leaked <= any(word in name for word in MAKING), name
        assert host.faults == [], name
    assert call > 100
    host.reset(1)


def test_others_may_change_the_context(host_gpu: Gpu, expected: list[Any]) -> None:
    """Between two calls, in the same thread: another GPU, or a context of their own."""
    from cuda.bindings import driver as cuda

    def away() -> None:
        assert cuda.cuCtxSetCurrent(cuda.CUcontext(0)) == (cuda.CUresult.CUDA_SUCCESS,)

    engine = host_gpu.engine(network(CLASSES))
    away()
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for frame, wanted in zip(GIVEN, expected, strict=True):
            away()
            np.testing.assert_array_equal(segment(frame), wanted)
        for (_, found), wanted in zip(segment.stream(GIVEN), expected, strict=True):
            away()
            np.testing.assert_array_equal(found, wanted)
        away()
    with Segmenter(engine, spec=SPEC, device="cpu") as segment:
        for frame, wanted in zip(GIVEN, expected, strict=True):
            away()
            np.testing.assert_array_equal(segment(frame), wanted)
        away()
    engine.close()


def test_control_c_in_the_loop(host_gpu: Gpu) -> None:
    engine = host_gpu.engine(network(CLASSES))
    with pytest.raises(KeyboardInterrupt):
        with Segmenter(engine, spec=SPEC, device="cuda") as segment:
            for number, _ in enumerate(segment.stream(GIVEN)):
                if number == 3:
                    raise KeyboardInterrupt
    engine.close()
    host_gpu.host.assert_nothing_left()


def test_control_c_gives_a_lent_frame_back(host_gpu: Gpu, expected: list[Any]) -> None:
    """Nothing that is still queued reads it, once the call has ended."""
    engine, owner = host_gpu.engine(network(CLASSES)), host_gpu.open_driver()
    stream = owner.open_stream()
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        segment(GIVEN[0])
        block = owner.allocate(GIVEN[1].nbytes, "a decoder")
        owner.copy_in(block.address, GIVEN[1], stream)
        owner.synchronise(stream)
        lent: Any = OnDevice(block.address, GIVEN[1].shape)
        with interrupted_after(4) as made, pytest.raises(KeyboardInterrupt):
            segment(lent)
        assert made[2:4] == ["cuLaunchKernel", "cuLaunchKernel"]
        block.close()
        np.testing.assert_array_equal(segment(GIVEN[1]), expected[1])
    owner.close()
    engine.close()


class Stubborn:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.closed = error, False

    def close(self) -> None:
        self.closed = True
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("the GPU was lost")])
def test_a_close_that_is_cut_short_closes_the_rest(error: BaseException) -> None:
    """The first error is the one that is told."""
    closers = [Stubborn(), Stubborn(error), Stubborn(ValueError()), Stubborn()]
    with pytest.raises(type(error)) as caught:
        close_all(closers)
    assert caught.value is error
    assert all(one.closed for one in closers)
