"""Loads the compiled kernels, ``_kernels.so`` beside this file, with ctypes.

The library uses nothing of Python's, so one build serves every Python version, and ctypes
gives up the interpreter lock while a kernel runs. Without it (no C compiler where the package
was installed, or ``SEGDEPLOY_KERNELS=numpy``) the callers compute the same bits with NumPy.
``SEGDEPLOY_KERNELS=baseline`` takes the variant for the oldest processors, for comparison.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt

ABI = 2
"""Number of the kernels' interface; a library with another one is not used."""
VARIABLE = "SEGDEPLOY_KERNELS"


def _library_path() -> Path:
    """``_kernels.so`` beside this file, or, in an editable install, in site-packages."""
    import segformer_deploy.runtime as package

    places = [Path(folder) / "_kernels.so" for folder in package.__path__]
    return next((place for place in places if place.is_file()), places[0])


LIBRARY = _library_path()

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32

_lock = threading.Lock()
_loaded: dict[str, tuple[Kernels | None, str]] = {}
_warned = False


class AxisTable(ctypes.Structure):
    """`Axis` in kernels.h."""

    _fields_ = [
        *((name, _POINTER) for name in ("lower", "upper", "w_lower", "w_upper", "start")),
        *((name, _INT) for name in ("inputs", "outputs")),
    ]


class TapsTable(ctypes.Structure):
    """`Taps` in kernels.h."""

    _fields_ = [
        *((name, _POINTER) for name in ("first", "count", "weights")),
        *((name, _INT) for name in ("stride", "inputs", "outputs")),
    ]


class StabiliseJob(ctypes.Structure):
    """`Stabilise` in kernels.h."""

    _fields_ = [
        *((name, _POINTER) for name in ("picture", "picture_before", "given", "shown")),
        *((name, _POINTER) for name in ("evidence", "motion", "voted", "out_evidence", "out")),
        *((name, _INT) for name in ("height", "width", "cell", "motion_width", "wide")),
        *((name, _INT) for name in ("reach", "past", "trust", "most_evidence")),
    ]


_AXIS = ctypes.POINTER(AxisTable)
_TAPS = ctypes.POINTER(TapsTable)
_CLASS_MAP = [_POINTER, _INT, _AXIS, _AXIS, _INT, _INT, _INT, _POINTER, _POINTER]
_CONFIDENCE = [_POINTER, _INT, _AXIS, _AXIS, _POINTER, _POINTER, _INT, _INT, _POINTER]
_RESAMPLE = [_POINTER, _INT, _TAPS, _TAPS, _INT, _INT, _INT, _INT, _POINTER]
_STABILISE = [ctypes.POINTER(StabiliseJob), _INT, _INT]


@dataclass(frozen=True)
class Kernels:
    """The C functions of one variant; arguments as in the files under kernels/."""

    variant: str
    class_map: Callable[..., int]
    confidence: Callable[..., int]
    resample: Callable[..., int]
    stabilise: Callable[..., int]
    smooth: Callable[..., int]


def load(path: Path, variant: str | None = None) -> tuple[Kernels | None, str]:
    """The kernels in the library at `path`, or None, and one line that says which or why not.

    Args:
        path: of the shared library.
        variant: ``baseline`` or ``avx2``; the best that this processor runs if None.
    """
    if not path.is_file():
        return None, "NumPy (the package was installed without its compiled kernels)"
    try:
        library = ctypes.CDLL(str(path))
        abi = int(library.segdeploy_kernels_abi())
        if abi != ABI:
            return None, f"NumPy ({path.name} has interface {abi}, this version needs {ABI})"
        library.segdeploy_kernels_variant.restype = ctypes.c_char_p
        variant = variant or library.segdeploy_kernels_variant().decode()
        kernels = Kernels(
            variant,
            _function(library, f"segdeploy_class_map_{variant}", _CLASS_MAP),
            _function(library, f"segdeploy_confidence_{variant}", _CONFIDENCE),
            _function(library, f"segdeploy_resample_{variant}", _RESAMPLE),
            _function(library, f"segdeploy_stabilise_{variant}", _STABILISE),
            _function(library, f"segdeploy_smooth_{variant}", _STABILISE),
        )
    except (OSError, AttributeError) as error:
        return None, f"NumPy ({path.name} does not load: {error})"
    return kernels, f"compiled C ({path.name}, {variant})"


def _function(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes, function.restype = arguments, ctypes.c_int
    return cast("Callable[..., int]", function)


def _state() -> tuple[Kernels | None, str]:
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked == "numpy":
        return None, f"NumPy ({VARIABLE}=numpy)"
    with _lock:
        if asked not in _loaded:
            _loaded[asked] = load(LIBRARY, asked or None)
        return _loaded[asked]


def available() -> bool:
    """Whether the compiled kernels are used."""
    return _state()[0] is not None


def describe() -> str:
    """What computes class maps and resizes here, in one line: compiled C, or NumPy and why."""
    return _state()[1]


def kernels() -> Kernels | None:
    """The kernels, or None where NumPy is to be used; says so once unless it was asked for."""
    global _warned
    found, line = _state()
    if found is None and not _warned and VARIABLE not in line:
        _warned = True
        warnings.warn(
            f"class maps and resizes run on {line}: same result, several times slower",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def address(array: npt.NDArray[Any]) -> int:
    """Of a C-contiguous array's first element."""
    return int(array.ctypes.data)


def check(status: int) -> None:
    """A kernel's return value: MemoryError where it found no memory for its scratch."""
    if status:
        raise MemoryError("no memory for a kernel's scratch")
