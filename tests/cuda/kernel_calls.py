"""One launch of each kernel on arrays of the host, on any `Machine`."""

from __future__ import annotations

from typing import Any

import numpy as np

from segformer_deploy.cuda import jobs
from segformer_deploy.cuda.bilinear import bilinear_axis
from segformer_deploy.runtime.interpolation import axis
from segformer_deploy.runtime.resample import Filter, Taps, taps, vertical_first
from tests.cuda.kernel_machines import Array, Arrays, Machine

Size = tuple[int, int]


def _blocks(size: int, each: int) -> int:
    return -(-size // each)


def _axis(arrays: Arrays, inputs: int, outputs: int, name: str) -> jobs.AxisTable:
    table = axis(inputs, outputs)
    parts = ("lower", "upper", "w_lower", "w_upper", "start")
    places = [arrays.give(getattr(table, part), f"{name}.{part}") for part in parts]
    return jobs.AxisTable(*places, inputs, outputs)


def _class_map_job(
    arrays: Arrays, logits: Array, size: Size, prune: bool, out8: Any, out32: Any
) -> jobs.ClassMapJob:
    _, classes, height, width = logits.shape
    return jobs.ClassMapJob(
        arrays.give(logits, "logits"),
        _axis(arrays, height, size[0], "rows"),
        _axis(arrays, width, size[1], "columns"),
        *(classes, logits.dtype == np.float16, prune, out8, out32),
    )


def class_map(machine: Machine, logits: Array, size: Size, prune: bool = True) -> Array:
    """logits [N, C, h, w] -> [N, H, W]."""
    frames, classes, height, width = logits.shape
    small = classes <= 256
    out = np.empty((frames, *size), np.uint8 if small else np.int32)
    grid = (_blocks(width, jobs.TILE_X), _blocks(height, jobs.TILE_Y), frames)
    with machine.arrays() as arrays:
        place = arrays.take(out, "class map")
        places = (place, None) if small else (None, place)
        job = _class_map_job(arrays, logits, size, prune, *places)
        machine.launch("class_map", job, grid, jobs.CELLS)
    return out


def confidence(machine: Machine, logits: Array, maps: Array) -> Array:
    """logits [N, C, h, w], maps [N, H, W] -> float32 [N, H, W]."""
    out = np.empty(maps.shape, np.float32)
    frames, height, width = maps.shape
    with machine.arrays() as arrays:
        place = arrays.give(maps, "class map")
        places = (place, None) if maps.dtype == np.uint8 else (None, place)
        inner = _class_map_job(arrays, logits, (height, width), True, *places)
        job = jobs.ConfidenceJob(inner, arrays.take(out, "confidence"))
        grid = (_blocks(height * width, jobs.PIXELS), 1, frames)
        machine.launch("confidence", job, grid, jobs.PIXELS)
    return out


def _resampled(
    machine: Machine, kernel: str, source: Array, how: str, table: Taps | None, size: Size
) -> Array:
    """One axis. source: [H, W, 3], or NV12 [H * 3 / 2, W]; rows may be apart."""
    out = np.empty((*size, 3), np.uint8)
    nv12 = how == "nv12"
    height = source.shape[0] * 2 // 3 if nv12 else source.shape[0]
    with machine.arrays() as arrays:
        whole = source.base if source.base is not None else source
        first = arrays.give(whole, "frame")
        tap = jobs.TapsTable()
        if table is not None:
            parts = (table.first, table.count, table.weights)
            places = [arrays.give(part, "taps") for part in parts]
            tap = jobs.TapsTable(*places, table.longest, table.outputs)
        pitch = source.strides[0]
        job = jobs.ResampleJob(
            *(first, first + height * pitch if nv12 else None, arrays.take(out, "to"), tap),
            *(pitch, source.shape[1], *size, jobs.FORMATS[how], 0),
        )
        machine.launch(kernel, job, (_blocks(size[1], jobs.PIXELS), size[0], 1), jobs.PIXELS)
    return out


def resize(machine: Machine, source: Array, size: Size, filter: Filter, how: str = "bgr") -> Array:
    """Pillow's resize to RGB [h, w, 3], both kernels in the order that `resample` has."""
    height = source.shape[0] * 2 // 3 if how == "nv12" else source.shape[0]
    width = source.shape[1]
    steps: list[tuple[str, Taps | None]] = []
    if width != size[1]:
        steps.append(("resample_columns", taps(width, size[1], filter)))
    if height != size[0]:
        steps.append(("resample_rows", taps(height, size[0], filter)))
    if vertical_first(height, width, *size):
        steps.reverse()
    for kernel, table in steps or [("resample_columns", None)]:
        columns = kernel == "resample_columns"
        to = (height, size[1]) if columns else (size[0], width)
        source = _resampled(machine, kernel, source, how, table, to)
        (height, width), how = to, "rgb"
    return source


def bilinear(machine: Machine, source: Array, size: Size, how: str = "bgr") -> Array:
    """OpenCV's resize to RGB [h, w, 3]."""
    nv12 = how == "nv12"
    height = source.shape[0] * 2 // 3 if nv12 else source.shape[0]
    out = np.empty((*size, 3), np.uint8)
    with machine.arrays() as arrays:
        first = arrays.give(source, "frame")
        tables = []
        for one in (bilinear_axis(source.shape[1], size[1]), bilinear_axis(height, size[0])):
            tables += [arrays.give(part, "table") for part in (one.lower, one.upper, one.weight)]
        pitch = source.strides[0]
        chroma = first + height * pitch if nv12 else None
        job = jobs.BilinearJob(
            *(first, chroma, arrays.take(out, "to"), *tables, pitch, *size, jobs.FORMATS[how])
        )
        grid = (_blocks(size[1], jobs.PIXELS), size[0], 1)
        machine.launch("resample_bilinear", job, grid, jobs.PIXELS)
    return out


def overlay(
    machine: Machine, frame: Array, class_map: Array, palette: Array, opacity: float
) -> Array:
    """frame [H, W, 3], class_map [H, W], palette [classes + 1, 3] -> [H, W, 3]."""
    out = np.empty_like(frame)
    pixels = class_map.size
    with machine.arrays() as arrays:
        place = arrays.give(class_map, "class map")
        places = (place, None) if class_map.dtype == np.uint8 else (None, place)
        job = jobs.OverlayJob(
            *(arrays.give(frame, "frame"), *places, arrays.give(palette, "palette")),
            *(arrays.take(out, "to"), len(palette) - 1, pixels, opacity),
        )
        machine.launch("overlay", job, (_blocks(pixels, 256), 1, 1), jobs.OVERLAY_PIXELS)
    return out
