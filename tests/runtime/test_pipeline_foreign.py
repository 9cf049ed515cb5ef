"""Frames that are on the GPU already: read where they lie, or refused by name."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

from segformer_deploy.cuda.driver import LEGACY_STREAM, Driver
from segformer_deploy.errors import FrameError, SegdeployError
from segformer_deploy.runtime.device_frame import _Tensor
from segformer_deploy.runtime.device_segment import DeviceSegment
from segformer_deploy.runtime.pipeline import Options
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.runtime.gpu import Gpu, OnDevice, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))


class Owner:
    """A library beside ours: its device memory, and arrays in it."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.stream = driver, driver.open_stream()

    def put(self, array: Any) -> int:
        """The address of the array's bytes, as they lie, on the device."""
        block = self.driver.allocate(array.nbytes, "a decoder")
        self.driver.copy_in(block.address, np.ascontiguousarray(array), self.stream)
        self.driver.synchronise(self.stream)
        return block.address


@pytest.fixture
def owner(host_gpu: Gpu) -> Iterator[Owner]:
    owner = Owner(host_gpu.open_driver())
    yield owner
    owner.driver.close()


_new = ctypes.pythonapi.PyCapsule_New
_new.restype = ctypes.py_object
_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


@dataclass
class Capsuled:
    """An array of a library that speaks DLPack only."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    kind: int = 2
    index: int = 0
    code: int = 1
    bits: int = 8
    offset: int = 0
    asked_for: int | None = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.index

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.asked_for = stream
        count = len(self.shape)
        self._shape = (ctypes.c_int64 * count)(*self.shape)
        self._strides = (ctypes.c_int64 * count)(*self.strides) if self.strides else None
        self._tensor = tensor = _Tensor()
        tensor.data, tensor.byte_offset = self.address, self.offset
        tensor.device.kind, tensor.device.index = self.kind, self.index
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = self.code, self.bits, 1
        tensor.ndim, tensor.shape = count, self._shape
        if self._strides is not None:
            tensor.strides = self._strides
        return _new(ctypes.addressof(tensor), b"dltensor", None)


def assert_read_in_place(gpu: Gpu, given: Any, expected: Any, format: Any = "bgr") -> None:
    engine = gpu.engine(network(CLASSES))
    host = gpu.host
    with Segmenter(engine, spec=SPEC, device="cuda", pixel_format=format) as segment:
        np.testing.assert_array_equal(segment(given), expected)
        copies = "cuMemcpyHtoDAsync", "cuMemcpyDtoDAsync", "cuMemcpy2DAsync"
        before = [host.count(name) for name in copies]  # the first frame brings the tables
        for _ in range(4):
            np.testing.assert_array_equal(segment(given), expected)
        assert [host.count(name) for name in copies] == before
        found = [class_map for _, class_map in segment.stream([given] * 5)]
        np.testing.assert_array_equal(found, [expected] * 5)
    engine.close()


def on_the_cpu(gpu: Gpu, frame: Any, format: Any = "bgr") -> Any:
    engine = gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cpu", pixel_format=format) as cpu:
        found = cpu(frame)
    engine.close()
    assert len(np.unique(found)) > 1
    return found


# The part of a picture of 90x120 that is handed over.
PARTS = {
    "whole": (slice(None), slice(None)),
    "a crop": (slice(7, 71), slice(11, 90)),
    "every second row": (slice(1, None, 2), slice(None)),
    "upside down": (slice(None, None, -1), slice(None)),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("format", ["bgr", "rgb"])
@pytest.mark.parametrize("way", ["interface", "dlpack"])
def test_views_of_a_picture(host_gpu: Gpu, owner: Owner, way: str, format: Any, part: str) -> None:
    whole = frames(1, 90, 120)[0]
    view = whole[PARTS[part]]
    start = view.ctypes.data - whole.ctypes.data
    address = owner.put(whole)
    strides = None if part == "whole" else view.strides
    given: Any = OnDevice(address + start, view.shape, strides)
    if way == "dlpack":
        given = Capsuled(address, view.shape, strides, offset=start)
    assert_read_in_place(host_gpu, given, on_the_cpu(host_gpu, view, format), format)


@pytest.mark.parametrize("pitch", [60, 256])
@pytest.mark.parametrize("way", [OnDevice, Capsuled])
def test_a_decoders_planes(host_gpu: Gpu, owner: Owner, way: Any, pitch: int) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (72, pitch)).astype(np.uint8)
    planes = cv2.blur(planes, (9, 9))
    view = np.ascontiguousarray(planes[:, :60])
    expected = on_the_cpu(host_gpu, cv2.cvtColor(view, cv2.COLOR_YUV2RGB_NV12), "rgb")
    given = way(owner.put(planes), view.shape, (pitch, 1))
    assert_read_in_place(host_gpu, given, expected, "nv12")


def test_a_producer_is_told_which_stream_reads(host_gpu: Gpu, owner: Owner) -> None:
    frame = frames(1, 90, 120)[0]
    given = Capsuled(owner.put(frame), frame.shape)
    engine = host_gpu.engine(network(CLASSES))
    segment = DeviceSegment(engine, SPEC, SPEC.resize)
    segment.collect(segment.submit([given], "bgr"))
    assert given.asked_for == segment._pipeline(confidence=False).compute_stream
    segment.close()
    engine.close()


@pytest.mark.parametrize("way", [OnDevice, Capsuled])
def test_a_frame_lives_until_it_was_read(host_gpu: Gpu, owner: Owner, way: Any) -> None:
    """Nobody else holds it: with it its memory goes, and not before."""

    class Own(way):  # type: ignore[misc]
        def __del__(self) -> None:
            self.block.close()

    engine = host_gpu.engine(network(CLASSES))
    given = frames(5, 40, 50)
    expected = [on_the_cpu(host_gpu, frame) for frame in given]
    segment, held = DeviceSegment(engine, SPEC, SPEC.resize), 0
    for turn in range(2):
        for frame, wanted in zip(given, expected, strict=True):
            block = owner.driver.allocate(frame.nbytes, "a decoder")
            owner.driver.copy_in(block.address, frame, owner.stream)
            owner.driver.synchronise(owner.stream)
            lent = Own(block.address, frame.shape)
            lent.block = block
            ticket = segment.submit([lent], "bgr")
            del lent
            ((found, _),) = segment.collect(ticket)
            np.testing.assert_array_equal(found, wanted)
        gc.collect()
        assert turn == 0 or host_gpu.held == held
        held = host_gpu.held
    segment.close()
    engine.close()


class Legacy:
    """Where a library works that names no stream."""

    handle = LEGACY_STREAM

    def close(self) -> None: ...


@pytest.mark.parametrize("stream", [None, LEGACY_STREAM])
def test_a_frame_that_is_being_made(host_gpu: Gpu, owner: Owner, stream: int | None) -> None:
    """pycuda names no stream, and its work on the default one is not waited for by itself."""
    engine = host_gpu.engine(network(CLASSES))
    segment = DeviceSegment(engine, SPEC, SPEC.resize)
    for frame in frames(4, 40, 50):
        expected = on_the_cpu(host_gpu, frame)
        block = owner.driver.allocate(frame.nbytes, "a decoder")
        owner.driver.copy_in(block.address, frame, Legacy())
        ((found, _),) = segment([OnDevice(block.address, frame.shape, stream=stream)], "bgr")
        np.testing.assert_array_equal(found, expected)
    segment.close()
    engine.close()


def test_an_array_with_both_ways_is_taken_by_the_one_that_orders(
    host_gpu: Gpu, owner: Owner
) -> None:
    """As PyTorch's: its interface says nothing of streams."""

    class Both(Capsuled):
        @property
        def __cuda_array_interface__(self) -> Any:
            raise AssertionError("DLPack comes first")

    (frame,) = frames(1, 40, 50)
    given = Both(owner.put(frame), frame.shape)
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        np.testing.assert_array_equal(segment(given), on_the_cpu(host_gpu, frame))
    assert given.asked_for
    engine.close()


def test_times_of_a_lent_frame(host_gpu: Gpu, owner: Owner) -> None:
    """Of the stages that it goes through, and none of a frame that used the slot before."""
    engine = host_gpu.engine(network(CLASSES))
    segment = DeviceSegment(engine, SPEC, SPEC.resize, Options(timed=True))
    copied = frames(1, 40, 50)
    lent = [OnDevice(owner.put(copied[0]), copied[0].shape)]
    for given, stages in ((lent, 4), (copied, 5), (lent, 4), (lent, 4), (lent, 4)):
        segment(given, "bgr")
        assert len(segment.last_stages_ms) == stages
        assert ("copy_in" in segment.last_stages_ms) == (stages == 5)
    segment.close()
    engine.close()


def test_frames_of_both_kinds_in_turn(host_gpu: Gpu, owner: Owner) -> None:
    """What is captured for frames of the host's does not run on those of the device."""
    given = frames(8, 40, 50)
    expected = [on_the_cpu(host_gpu, frame) for frame in given]
    mixed = [
        OnDevice(owner.put(frame), frame.shape) if number % 3 else frame
        for number, frame in enumerate(given)
    ]
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        found = [class_map for _, class_map in segment.stream(mixed * 2)]  # type: ignore[operator]
    np.testing.assert_array_equal(found, expected * 2)
    engine.close()


REFUSED = {
    "floats": (OnDevice, {"shape": (40, 50, 3), "typestr": "<f4"}, "bgr", "<f4"),
    "signed": (OnDevice, {"shape": (40, 50, 3), "typestr": "|i1"}, "bgr", r"\|i1"),
    "grey": (OnDevice, {"shape": (40, 50)}, "bgr", r"\[40, 50\]"),
    "alpha": (OnDevice, {"shape": (40, 50, 4)}, "bgr", r"\[40, 50, 4\]"),
    "planar": (OnDevice, {"shape": (3, 40, 50)}, "bgr", r"\[3, 40, 50\]"),
    "apart": (
        *(OnDevice, {"shape": (40, 50, 3), "strides": (200, 4, 1)}, "bgr"),
        r"strides \[200, 4, 1\]",
    ),
    "turned": (
        *(OnDevice, {"shape": (40, 50, 3), "strides": (150, 3, -1)}, "bgr"),
        r"strides \[150, 3, -1\]",
    ),
    "empty": (OnDevice, {"shape": (0, 50, 3)}, "bgr", "0x50"),
    "batch": (OnDevice, {"shape": (1, 40, 50, 3)}, "bgr", r"\[1, 40, 50, 3\]"),
    "nv12 as pixels": (OnDevice, {"shape": (40, 50, 3)}, "nv12", "NV12"),
    "nv12 cut off": (OnDevice, {"shape": (61, 50)}, "nv12", "NV12"),
    "nv12 odd": (OnDevice, {"shape": (60, 51)}, "nv12", "NV12"),
    "nv12 apart": (OnDevice, {"shape": (60, 50), "strides": (100, 2)}, "nv12", "NV12"),
    "a tensor of floats": (Capsuled, {"shape": (40, 50, 3), "code": 2}, "bgr", "not of bytes"),
    "a tensor of shorts": (Capsuled, {"shape": (40, 50, 3), "bits": 16}, "bgr", "not of bytes"),
    "another GPU's": (Capsuled, {"shape": (40, 50, 3), "index": 1}, "bgr", "GPU 1"),
    "pinned memory's": (Capsuled, {"shape": (40, 50, 3), "kind": 3}, "bgr", "Capsuled"),
    "the host's": (Capsuled, {"shape": (40, 50, 3), "kind": 1}, "bgr", "Capsuled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_frame_is_refused(host_gpu: Gpu, owner: Owner, case: str) -> None:
    kind, fields, format, says = REFUSED[case]
    address = owner.put(np.zeros(40_000, np.uint8))
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda", pixel_format=format) as segment:
        before = host_gpu.held
        for use in (segment, lambda frame: list(segment.stream([frame]))):
            with pytest.raises(SegdeployError, match=says) as caught:
                use(kind(address, **fields))
            assert caught.value.expected
            assert host_gpu.held == before
    engine.close()


def test_several_at_once_and_a_cpu_refuse_them(host_gpu: Gpu, owner: Owner) -> None:
    frame = frames(1, 40, 50)[0]
    given: Any = OnDevice(owner.put(frame), frame.shape)
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for several in ([given, given], [frame, given]):
            with pytest.raises(FrameError, match="a list of device frames"):
                segment(several)
        np.testing.assert_array_equal(segment([given])[0], on_the_cpu(host_gpu, frame))
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        with pytest.raises(FrameError, match="OnDevice"):
            cpu(given)
    engine.close()
