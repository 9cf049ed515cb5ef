"""Arrays to and from Triton's Python backend by DLPack.

The backend of Triton up to 24.10 is compiled against NumPy 1. Under NumPy 2 it gives no error, but
`Tensor.as_numpy()` gives other memory than the client sent, `Tensor(name, array)` sends a shape
without bytes, and a BYTES input ends the process (python_backend pull request 384; seen with Triton
2.51). DLPack is a structure of its own, the same under both.

NumPy's own capsule would do for the way out, but its destructor expects another name than the
backend leaves on it, and writes to the server's log for each frame; ours has no destructor. The
backend calls the deleter in any case: it may not be null.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from segformer_deploy.engine.session import Array

_CPU = 1  # kDLCPU
_CODES = {"i": 0, "u": 1, "f": 2}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    """DLTensor in dlpack.h, version 0."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _ManagedTensor(ctypes.Structure):
    """DLManagedTensor in dlpack.h, version 0."""

    _fields_ = [
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", _DELETER),
    ]


_lent: dict[int, tuple[_ManagedTensor, Array]] = {}
"""What readers hold, by address; the shape is kept alive by the structure that points to it."""


def _give_back(address: int) -> None:
    _lent.pop(address, None)


_GIVE_BACK = _DELETER(_give_back)
"""What the readers call; it lives as long as they may."""


def lent_count() -> int:
    """How many arrays readers hold at this moment."""
    return len(_lent)


class Lent:
    """An array for a reader of DLPack, which keeps it alive until it is done.

    Args:
        array: integers or floats of the CPU; a copy is made where it is not in one piece.
    """

    def __init__(self, array: Array) -> None:
        self._array = np.ascontiguousarray(array)

    def __dlpack__(self, **_: Any) -> Any:
        """A capsule for one reader, who calls its deleter."""
        array, kind = self._array, self._array.dtype
        # Strides are left out: dlpack.h takes that for one piece, in C's order.
        tensor = _Tensor(
            array.ctypes.data,
            *(_CPU, 0, array.ndim),
            *(_CODES[kind.kind], kind.itemsize * 8, 1),
            (ctypes.c_int64 * array.ndim)(*array.shape),
        )
        managed = _ManagedTensor(tensor, None, _GIVE_BACK)
        address = ctypes.addressof(managed)
        _lent[address] = managed, array
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(address, _NAME, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


def array_of(tensor: Any) -> Array:
    """The array that a tensor of the backend holds in host memory; no copy is made."""
    return np.from_dlpack(tensor)
