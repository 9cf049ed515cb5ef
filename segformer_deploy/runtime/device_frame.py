"""Frames that are on the GPU already; pycuda, CuPy, PyTorch and PyNvVideoCodec hand over theirs.

Two ways are understood: ``__cuda_array_interface__`` (version 2 or 3) and DLPack. Neither needs
the library that made the array.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from segformer_deploy.cuda.driver import LEGACY_STREAM
from segformer_deploy.errors import FrameError
from segformer_deploy.runtime.device_kernels import DeviceFrame, Format
from segformer_deploy.spec import FrameSize

_EXPECTED = "uint8 [height, width, 3] (NV12: [height * 3 / 2, width]) in device memory"
_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_UINT = 1  # DLDataTypeCode


@dataclass(frozen=True)
class Foreign:
    """A frame of somebody else's.

    Attributes:
        stream: what queued the frame's making, to be waited for; None where the producer has
            made the consumer wait.
        keep: must live until the frame has been read.
    """

    frame: DeviceFrame
    stream: int | None
    keep: Any


def is_foreign(frame: object) -> bool:
    """Whether `frame` says that it lies in device memory."""
    device = getattr(frame, "__dlpack_device__", None)
    if device is not None and int(device()[0]) in (_CUDA, _CUDA_MANAGED):
        return True
    return hasattr(frame, "__cuda_array_interface__")


def foreign_frame(frame: Any, format: Format, consumer: int) -> Foreign:
    """What `frame` says of itself.

    Args:
        consumer: the stream that will read it; a DLPack producer makes it wait.

    Raises FrameError where it is no such frame.
    """
    # DLPack first: it orders by itself; PyTorch's interface says nothing of streams.
    if hasattr(frame, "__dlpack__"):
        return _from_dlpack(frame, format, consumer)
    return _from_interface(frame, format)


def _from_interface(frame: Any, format: Format) -> Foreign:
    about = frame.__cuda_array_interface__
    if about.get("typestr") not in ("|u1", "<u1", "u1"):
        raise FrameError(f"a device frame of type {about.get('typestr')!r}", _EXPECTED)
    shape = tuple(int(side) for side in about["shape"])
    strides = about.get("strides") or _contiguous(shape)
    found = _described(int(about["data"][0]), shape, tuple(int(s) for s in strides), format)
    # pycuda says None of work on the default stream, which ours do not wait for by themselves.
    return Foreign(found, int(about.get("stream") or LEGACY_STREAM), frame)


def _described(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...], format: Format
) -> DeviceFrame:
    if format == "nv12":
        if len(shape) != 2 or strides[1] != 1 or shape[0] % 3 or shape[1] % 2:
            raise FrameError(f"a device frame of shape {list(shape)} as NV12", _EXPECTED)
        size = FrameSize(shape[0] // 3 * 2, shape[1])
        return DeviceFrame(address, size, strides[0], format, address + size.height * strides[0])
    if len(shape) != 3 or shape[2] != 3 or strides[1:] != (3, 1):
        raise FrameError(
            f"a device frame of shape {list(shape)} and strides {list(strides)}", _EXPECTED
        )
    return DeviceFrame(address, FrameSize(shape[0], shape[1]), strides[0], format)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for side in reversed(shape):
        strides.append(step)
        step *= side
    return tuple(reversed(strides))


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h, the first member of what an unversioned capsule points to."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _from_dlpack(frame: Any, format: Format, consumer: int) -> Foreign:
    # The capsule is never renamed to "used_…": it stays the owner, and frees when it is dropped.
    capsule = frame.__dlpack__(stream=consumer)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    if tensor.device.index != 0:
        raise FrameError(f"a device frame on GPU {tensor.device.index}", "one on GPU 0, our own")
    if (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) != (_UINT, 8, 1):
        raise FrameError("a device frame that is not of bytes", _EXPECTED)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = (
        tuple(tensor.strides[i] for i in range(tensor.ndim))
        if tensor.strides
        else _contiguous(shape)
    )
    address = int(tensor.data) + int(tensor.byte_offset)
    return Foreign(_described(address, shape, strides, format), None, (frame, capsule))
