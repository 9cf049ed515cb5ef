"""Pictures as a camera: written to a v4l2loopback device, from which other programs read them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np

from segformer_deploy.errors import OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Picture
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.sink_base import Sink
from segformer_deploy.video.yuv import fitted, yuv_from_bgr

# linux/videodev2.h
VIDEO_OUTPUT, HAS_DEVICE_CAPS = 0x00000002, 0x80000000
OUTPUT_BUFFER, FIELD_NONE = 2, 1
PRIV_MAGIC = 0xFEEDCAFE  # without it drivers must ignore the colours' details
REC709, LIMITED_RANGE, XFER_709, ENCODING_709 = 3, 2, 1, 2
_MODPROBE = "sudo modprobe v4l2loopback video_nr=10 card_label=segdeploy exclusive_caps=1"


class Capability(ctypes.Structure):
    """`struct v4l2_capability`."""

    _fields_ = (
        ("driver", ctypes.c_uint8 * 16),
        ("card", ctypes.c_uint8 * 32),
        ("bus_info", ctypes.c_uint8 * 32),
        ("version", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("device_caps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    )


class PixelFormat(ctypes.Structure):
    """`struct v4l2_pix_format`."""

    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in (
            "width", "height", "pixelformat", "field", "bytesperline", "sizeimage", "colorspace",
            "priv", "flags", "ycbcr_enc", "quantization", "xfer_func",
        )
    )  # fmt: skip


class _AnyFormat(ctypes.Union):
    # The pointer gives the union the alignment that other members of the real one give it.
    _fields_ = (
        ("pix", PixelFormat),
        ("raw_data", ctypes.c_uint8 * 200),
        ("alignment", ctypes.c_void_p),
    )


class Format(ctypes.Structure):
    """`struct v4l2_format`."""

    _fields_ = (("type", ctypes.c_uint32), ("fmt", _AnyFormat))


def ioctl_number(direction: int, number: int, size: int) -> int:
    """asm-generic/ioctl.h's `_IOC` for video devices: direction 1 writes, 2 reads, 3 both.

    So on x86, ARM and RISC-V; MIPS, PowerPC and SPARC count directions otherwise.
    """
    return direction << 30 | size << 16 | ord("V") << 8 | number


QUERYCAP = ioctl_number(2, 0, ctypes.sizeof(Capability))
S_FMT = ioctl_number(3, 5, ctypes.sizeof(Format))


def fourcc(name: str) -> int:
    """The number of a pixel format with that name."""
    return int.from_bytes(name.encode(), "little")


YU12, YUYV = fourcc("YU12"), fourcc("YUYV")


class System(Protocol):
    """The system calls that a device needs; OSError where one fails."""

    def open(self, path: Path) -> int: ...

    def ioctl(self, handle: int, request: int, argument: Any) -> None:
        """`argument`, a ctypes structure, is read and changed in place."""

    def write(self, handle: int, data: bytes | memoryview) -> int: ...

    def close(self, handle: int) -> None: ...


class Linux:
    """The real ones."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def ioctl(self, handle: int, request: int, argument: Any) -> None:
        fcntl.ioctl(handle, request, argument)

    def write(self, handle: int, data: bytes | memoryview) -> int:
        return os.write(handle, data)

    def close(self, handle: int) -> None:
        os.close(handle)


class LoopbackSink(Sink):
    """Plays the pictures on a v4l2loopback device: browsers and OpenCV see a camera there.

    The device takes the first picture's size (odd sides become even by repeating the last row
    or column); pictures of another size are fitted into that. Where a program is reading
    already, the driver may insist on the size and the layout (YU12 or YUYV) that it has: then
    pictures are fitted into those. Colours are BT.709, limited range. The times of frames are
    of no use here: a reader gets each picture when it is written.

    Args:
        device: ``/dev/videoN``.
        system: what makes the system calls.

    Raises:
        OutputError: no such device, one that takes no pictures, or one that refuses them.
    """

    def __init__(self, device: str | Path, system: System | None = None) -> None:
        super().__init__(Path(device))
        self._system: System = system or Linux()
        self._size: FrameSize | None = None
        self._layout = YU12
        self._fitted = 0
        self._wanted: tuple[int, int] = (0, 0)
        try:
            self._handle = self._system.open(self.path)
        except OSError as error:
            raise self._refused(error) from error
        try:
            self._check_that_it_is_an_output()
        except BaseException:
            self.abort()
            raise

    def write(self, frame: Frame, picture: Picture) -> None:
        self._check_open()
        with uninterrupted():
            if self._size is None:
                self._size = self._agree_on(picture)
            data = self._packed(picture, self._size).reshape(-1).data
            try:
                written = self._system.write(self._handle, data)
            except OSError as error:
                raise self._refused(error) from error
            if written != len(data):
                raise OutputError(
                    f"{self.path} took {written} of a picture's {len(data)} bytes",
                    "a device that takes whole pictures",
                    _MODPROBE,
                )

    def close(self) -> None:
        if self.closed:
            return
        self.abort()
        if self._fitted:
            self.notes.append(
                f"{self._fitted} frames of another size were fitted into {self._size}"
            )

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._system.close(self._handle)

    def _check_that_it_is_an_output(self) -> None:
        found = Capability()
        try:
            self._system.ioctl(self._handle, QUERYCAP, found)
        except OSError as error:
            raise OutputError(
                f"{self.path} is not a video device: {error.strerror}",
                "a v4l2loopback device",
                _MODPROBE,
            ) from error
        # What the whole driver can do, and, where it tells, what this one device of it can.
        can = found.capabilities
        if can & HAS_DEVICE_CAPS:
            can = found.device_caps
        if not can & VIDEO_OUTPUT:
            card = bytes(found.card).split(b"\0")[0].decode("utf-8", "replace")
            raise OutputError(
                f"{self.path} ({card}) gives pictures and takes none",
                "a v4l2loopback device that no other program writes to",
                _MODPROBE,
            )

    def _agree_on(self, picture: Picture) -> FrameSize:
        """Set the device to the picture's size; give the size that it then has."""
        height, width = picture.shape[:2]
        even = FrameSize(height + height % 2, width + width % 2)
        wanted = Format(type=OUTPUT_BUFFER)
        pix = wanted.fmt.pix
        pix.width, pix.height = even.width, even.height
        pix.pixelformat, pix.field = YU12, FIELD_NONE
        pix.bytesperline = even.width
        pix.sizeimage = _bytes_of(even, YU12)
        pix.priv = PRIV_MAGIC
        pix.colorspace, pix.quantization = REC709, LIMITED_RANGE
        pix.ycbcr_enc, pix.xfer_func = ENCODING_709, XFER_709
        try:
            self._system.ioctl(self._handle, S_FMT, wanted)
        except OSError as error:
            raise self._refused(error) from error
        pix = wanted.fmt.pix
        size = FrameSize(int(pix.height), int(pix.width))
        known = pix.pixelformat in (YU12, YUYV)
        even_size = size.height > 0 and size.width > 0 and not (size.height % 2 or size.width % 2)
        if not known or not even_size or pix.sizeimage != _bytes_of(size, pix.pixelformat):
            name = int(pix.pixelformat).to_bytes(4, "little").decode("ascii", "replace")
            raise OutputError(
                f"{self.path} insists on {size} in the layout {name} ({pix.sizeimage} bytes)",
                f"{even} in YU12, or another even size in YU12 or YUYV",
                "end the program that reads from it, and try again",
            )
        self._layout = int(pix.pixelformat)
        self._wanted = (height, width) if size == even else (size.height, size.width)
        return size

    def _packed(self, picture: Picture, size: FrameSize) -> Picture:
        if picture.shape[:2] != self._wanted:
            picture = fitted(picture, FrameSize(*self._wanted))
            self._fitted += 1
        down, right = size.height - self._wanted[0], size.width - self._wanted[1]
        if down or right:
            picture = cast(
                Picture, cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
            )
        planes = yuv_from_bgr(picture)
        return planes if self._layout == YU12 else yuyv_from_planes(planes)

    def _refused(self, error: OSError) -> OutputError:
        reason = error.strerror or str(error)
        advice = {
            errno.EACCES: "sudo usermod -aG video $USER, then log in again",
            errno.EBUSY: "end the program that writes to it",
        }.get(error.errno or 0, _MODPROBE)
        return OutputError(
            f"cannot write to {self.path}: {reason}", "a v4l2loopback device", advice
        )


def _bytes_of(size: FrameSize, layout: int) -> int:
    return size.height * size.width * (3 if layout == YU12 else 4) // 2


def yuyv_from_planes(planes: Picture) -> Picture:
    """YUYV of a yuv420p picture: uint8 `[H * 3/2, W]` -> `[H, 2 W]`; rows share their chroma."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    packed = np.empty((height, width // 2, 4), np.uint8)
    packed[:, :, 0], packed[:, :, 2] = planes[:height, 0::2], planes[:height, 1::2]
    for place, plane in zip((1, 3), chroma, strict=True):
        packed[0::2, :, place] = packed[1::2, :, place] = plane
    return packed.reshape(height, 2 * width)
