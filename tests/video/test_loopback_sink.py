"""Writing to a v4l2loopback device: one that is made of numbers from the kernel's headers."""

from __future__ import annotations

import ctypes
import errno
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segformer_deploy.errors import OutputError
from segformer_deploy.video import loopback_sink
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.loopback_sink import Capability, Format, LoopbackSink, PixelFormat
from tests.video.makers import index_of, picture

HEADER = Path("/usr/include/linux/videodev2.h")
COMPILER = shutil.which("cc") or shutil.which("gcc")
SIZES = {
    "sizeof(struct v4l2_capability)": ctypes.sizeof(Capability),
    "sizeof(struct v4l2_format)": ctypes.sizeof(Format),
    "offsetof(struct v4l2_format, fmt)": Format.fmt.offset,
    **{
        f"offsetof(struct v4l2_capability, {name})": getattr(Capability, name).offset
        for name in ("card", "version", "capabilities", "device_caps")
    },
    **{
        f"offsetof(struct v4l2_pix_format, {name})": getattr(PixelFormat, name).offset
        for name, *_ in PixelFormat._fields_
    },
    "VIDIOC_QUERYCAP": loopback_sink.QUERYCAP,
    "VIDIOC_S_FMT": loopback_sink.S_FMT,
    "V4L2_CAP_VIDEO_OUTPUT": loopback_sink.VIDEO_OUTPUT,
    "V4L2_CAP_DEVICE_CAPS": loopback_sink.HAS_DEVICE_CAPS,
    "V4L2_BUF_TYPE_VIDEO_OUTPUT": loopback_sink.OUTPUT_BUFFER,
    "V4L2_FIELD_NONE": loopback_sink.FIELD_NONE,
    "V4L2_PIX_FMT_PRIV_MAGIC": loopback_sink.PRIV_MAGIC,
    "V4L2_PIX_FMT_YUV420": loopback_sink.YU12,
    "V4L2_PIX_FMT_YUYV": loopback_sink.YUYV,
    "V4L2_COLORSPACE_REC709": loopback_sink.REC709,
    "V4L2_QUANTIZATION_LIM_RANGE": loopback_sink.LIMITED_RANGE,
    "V4L2_XFER_FUNC_709": loopback_sink.XFER_709,
    "V4L2_YCBCR_ENC_709": loopback_sink.ENCODING_709,
}


@pytest.mark.skipif(not HEADER.exists() or COMPILER is None, reason="needs a C compiler")
def test_layouts_and_numbers_are_the_kernels(tmp_path: Path) -> None:
    shown = "\n".join(f'    printf("%lu\\n", (unsigned long)({one}));' for one in SIZES)
    (tmp_path / "a.c").write_text(
        "#include <linux/videodev2.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f"int main(void) {{\n{shown}\n    return 0;\n}}\n"
    )
    program = str(tmp_path / "a")
    subprocess.run([str(COMPILER), "-o", program, str(tmp_path / "a.c")], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    assert dict(zip(SIZES, map(int, done.stdout.split()), strict=True)) == SIZES


class FakeDevice:
    """A v4l2loopback device on a 64-bit system, by its header's numbers and not by ours."""

    def __init__(
        self,
        capabilities: int = 0x85200003,
        device_caps: int = 0x05200002,
        insists: tuple[int, int, bytes] | None = None,
        fails: dict[str, int] | None = None,
    ) -> None:
        self._capabilities = (capabilities, device_caps)
        self._insists = insists
        self._fails = fails or {}
        self.closed = 0
        self.written: list[bytes] = []
        self.short = 0

    def _maybe_fail(self, call: str) -> None:
        if call in self._fails:
            raise OSError(self._fails[call], "as told")

    def open(self, path: Path) -> int:
        self._maybe_fail("open")
        return 5

    def ioctl(self, handle: int, request: int, argument: Any) -> None:
        assert handle == 5
        view = memoryview(argument).cast("B")
        if request == 0x80685600:  # VIDIOC_QUERYCAP
            self._maybe_fail("QUERYCAP")
            assert len(view) == 104
            view[16:26] = b"Integrated"
            struct.pack_into("=II", view, 84, *self._capabilities)
            return
        assert request == 0xC0D05605  # VIDIOC_S_FMT
        self._maybe_fail("S_FMT")
        assert len(view) == 208
        kind, width, height, layout, field, per_line, size = struct.unpack_from("=I4x2I4s3I", view)
        assert (kind, field) == (2, 1)
        assert struct.unpack_from("=2I", view, 32) == (3, 0xFEEDCAFE)  # BT.709
        if self._insists is not None:
            height, width, layout = self._insists
        per_line = width * (2 if layout == b"YUYV" else 1)
        expected = width * height * 2 if layout == b"YUYV" else width * height * 3 // 2
        assert self._insists is not None or size == expected
        struct.pack_into("=2I4s3I", view, 8, width, height, layout, field, per_line, expected)
        self.size, self.layout = (height, width), layout

    def write(self, handle: int, data: bytes | memoryview) -> int:
        self._maybe_fail("write")
        self.written.append(bytes(data))
        return len(data) - self.short

    def close(self, handle: int) -> None:
        self.closed += 1

    def pictures(self) -> list[np.ndarray[Any, Any]]:
        """BGR, about: OpenCV takes BT.601's weights."""
        height, width = self.size
        if self.layout == b"YUYV":
            shape, code = (height, width, 2), cv2.COLOR_YUV2BGR_YUYV
        else:
            shape, code = (height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420
        return [
            cv2.cvtColor(np.frombuffer(data, np.uint8).reshape(shape), code)
            for data in self.written
        ]


def play(sink: LoopbackSink, *images: np.ndarray[Any, Any]) -> None:
    for index, image in enumerate(images):
        sink.write(Frame(image, index, 0.0, "", pts=index, time_base=Fraction(1, 25)), image)


def test_pictures_arrive_in_order() -> None:
    device = FakeDevice()
    with LoopbackSink("/dev/video10", device) as sink:
        play(sink, *[picture(index) for index in range(5)])
    assert (device.size, device.layout) == ((64, 96), b"YU12")
    assert [index_of(image) for image in device.pictures()] == list(range(5))
    assert (sink.notes, device.closed) == ([], 1)
    sink.close()
    sink.abort()
    assert device.closed == 1
    with pytest.raises(OutputError, match="closed already"):
        play(sink, picture(0))


@pytest.mark.parametrize("size", [(65, 97), (1, 1), (64, 97)])
def test_odd_sides_become_even(size: tuple[int, int]) -> None:
    device = FakeDevice()
    with LoopbackSink("/dev/video10", device) as sink:
        play(sink, np.full((*size, 3), 128, np.uint8), np.full((*size, 3), 128, np.uint8))
    assert device.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert sink.notes == []
    assert all(np.abs(one.astype(int) - 128).max() <= 2 for one in device.pictures())


def test_another_size_is_fitted() -> None:
    device = FakeDevice()
    with LoopbackSink("/dev/video10", device) as sink:
        play(sink, picture(1), picture(2, 128, 192), picture(3, 96, 64))
    images = device.pictures()
    assert [index_of(image) for image in images[:2]] == [1, 2]
    assert images[2][:, :20].max() < 20  # black at both sides of the upright one
    assert sink.notes == ["2 frames of another size were fitted into 64x96"]


def test_a_device_that_insists_on_its_own_format() -> None:
    device = FakeDevice(insists=(128, 192, b"YUYV"))
    with LoopbackSink("/dev/video10", device) as sink:
        play(sink, picture(9), picture(10))
    assert [len(data) for data in device.written] == [128 * 192 * 2] * 2
    assert [index_of(image) for image in device.pictures()] == [9, 10]
    assert sink.notes == ["2 frames of another size were fitted into 128x192"]


def test_yuyv_is_yu12_with_shared_chroma() -> None:
    colour = np.full((4, 6, 3), (200, 40, 90), np.uint8)
    devices = [FakeDevice(insists=(4, 6, layout)) for layout in (b"YU12", b"YUYV")]
    for device in devices:
        with LoopbackSink("/dev/video10", device) as sink:
            play(sink, colour)
    one, other = (device.pictures()[0] for device in devices)
    assert np.array_equal(one, other)
    assert len(np.unique(one.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("device", "found", "next_step"),
    [
        (FakeDevice(fails={"open": errno.ENOENT}), "as told", "modprobe v4l2loopback"),
        (FakeDevice(fails={"open": errno.EACCES}), "as told", "-aG video"),
        (FakeDevice(fails={"QUERYCAP": errno.ENOTTY}), "not a video device", "v4l2loopback"),
        (FakeDevice(0x85200001, 0x04200001), "(Integrated) gives pictures", "v4l2loopback"),
        # The driver has outputs elsewhere, this device of it is none.
        (FakeDevice(0x85200003, 0x05200001), "gives pictures and takes none", "v4l2loopback"),
    ],
)
def test_what_is_no_output(device: FakeDevice, found: str, next_step: str) -> None:
    with pytest.raises(OutputError) as caught:
        LoopbackSink("/dev/video10", device)
    assert found in caught.value.found
    assert "/dev/video10" in caught.value.found
    assert next_step in caught.value.next_step
    assert device.closed == (0 if "open" in device._fails else 1)


def test_an_old_driver_tells_of_the_whole_only() -> None:
    device = FakeDevice(0x05000002, 0)
    with LoopbackSink("/dev/video10", device) as sink:
        play(sink, picture(0))
    assert len(device.written) == 1


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (FakeDevice(insists=(64, 96, b"MJPG")), "insists on 64x96 in the layout MJPG"),
        (FakeDevice(insists=(63, 96, b"YU12")), "insists on 63x96"),
        (FakeDevice(fails={"S_FMT": errno.EBUSY}), "cannot write to /dev/video10: as told"),
        (FakeDevice(fails={"write": errno.EIO}), "cannot write to /dev/video10: as told"),
    ],
)
def test_a_device_that_refuses_the_pictures(device: FakeDevice, found: str) -> None:
    with pytest.raises(OutputError) as caught, LoopbackSink("/dev/video10", device) as sink:
        play(sink, picture(0))
    assert found in caught.value.found
    assert device.closed == 1


def test_half_a_picture_is_an_error() -> None:
    device = FakeDevice()
    device.short = 10
    with pytest.raises(OutputError, match="took 9206 of a picture's 9216 bytes"):
        with LoopbackSink("/dev/video10", device) as sink:
            play(sink, picture(0))


def test_a_file_is_not_a_device(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="is not a video device"):
        LoopbackSink(tmp_path / "a")
    with pytest.raises(OutputError, match="No such file"):
        LoopbackSink(tmp_path / "b")
