"""The structs that our kernels take, field by field as in kernels/*.cuh."""

from __future__ import annotations

import ctypes
from typing import Any

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_FLOAT = ctypes.c_float


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, _POINTER) for name in names]


def _integers(*names: str) -> list[tuple[str, Any]]:
    return [(name, _INT) for name in names]


class AxisTable(ctypes.Structure):
    """`Axis` in class_map.cuh: one axis of the upsampling of logits."""

    _fields_ = [
        *_pointers("lower", "upper", "w_lower", "w_upper", "start"),
        *_integers("inputs", "outputs"),
    ]


class ClassMapJob(ctypes.Structure):
    """`ClassMap` in class_map.cuh."""

    _fields_ = [
        *_pointers("logits"),
        ("rows", AxisTable),
        ("columns", AxisTable),
        *_integers("classes", "half", "prune"),
        *_pointers("out8", "out32"),
    ]


class ConfidenceJob(ctypes.Structure):
    """`Confidence` in confidence.cuh."""

    _fields_ = [("map", ClassMapJob), *_pointers("to")]


class TapsTable(ctypes.Structure):
    """`Taps` in resample.cuh: one axis of the resize of a frame."""

    _fields_ = [*_pointers("first", "count", "weights"), *_integers("stride", "outputs")]


class ResampleJob(ctypes.Structure):
    """`Resample` in resample.cuh."""

    _fields_ = [
        *_pointers("from_", "chroma", "to"),
        ("taps", TapsTable),
        *_integers("pitch", "width", "rows", "columns", "format", "first_row"),
    ]


class BilinearJob(ctypes.Structure):
    """`Bilinear` in resample.cuh."""

    _fields_ = [
        *_pointers("from_", "chroma", "to"),
        *_pointers("x_lower", "x_upper", "x_weight", "y_lower", "y_upper", "y_weight"),
        *_integers("pitch", "rows", "columns", "format"),
    ]


class OverlayJob(ctypes.Structure):
    """`Overlay` in overlay.cuh."""

    _fields_ = [
        *_pointers("frame", "map8", "map32", "palette", "to"),
        *_integers("classes", "pixels"),
        ("opacity", _FLOAT),
    ]


# The enums of the kernels' files.
TILE_X, TILE_Y = 32, 16
CELLS = TILE_X * TILE_Y
PIXELS = 128
OVERLAY_PIXELS = 256
FORMATS = {"bgr": 0, "rgb": 1, "nv12": 2}
