"""The way in and the way out on a GPU: frame -> network input, logits -> class map, overlay.

Each call queues work on a stream and returns. The numbers are those of the CPU's kernels, bit
for bit (class map, confidence, Pillow's resize, and OpenCV's where OpenCV runs code of its own
and not a maker's) or within one level (overlay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from segformer_deploy.cuda import jobs
from segformer_deploy.cuda.bilinear import bilinear_axis
from segformer_deploy.cuda.driver import Driver, Function, Module, Stream
from segformer_deploy.cuda.modules import images_for
from segformer_deploy.errors import BackendError
from segformer_deploy.runtime.resample import Filter, vertical_first
from segformer_deploy.runtime.tables import Array, Tables
from segformer_deploy.spec import FrameSize, ResizeRule

Format = Literal["bgr", "rgb", "nv12"]
KERNELS = (
    *("class_map", "confidence", "overlay"),
    *("resample_columns", "resample_rows", "resample_bilinear"),
)
_PIXELS_PER_CELL_TO_PRUNE = 2


@dataclass(frozen=True)
class DeviceFrame:
    """A frame in device memory.

    Attributes:
        address: of the first row: uint8 `[H, W, 3]`, or of NV12's Y plane.
        pitch: bytes from one row to the next.
        chroma: NV12: address of the second plane, of the same pitch.
    """

    address: int
    size: FrameSize
    pitch: int
    format: Format = "bgr"
    chroma: int = 0


class KernelCode:
    """Our kernels' code, loaded on one GPU.

    Raises BackendError where no image of them runs on this GPU and driver.
    """

    def __init__(self, driver: Driver, cuda_version: tuple[int, int] | None = None) -> None:
        self._module, self.how = _loaded(driver, cuda_version)
        try:
            self.functions: dict[str, Function] = {
                name: self._module.function(name) for name in KERNELS
            }
        except BaseException:
            self._module.close()
            raise

    def close(self) -> None:
        """Give the code back; safe to call twice."""
        self._module.close()


class DeviceKernels:
    """The kernels with the tables that one layout of frames looks up."""

    def __init__(self, driver: Driver, code: KernelCode) -> None:
        self._driver, self._functions = driver, code.functions
        self.tables = Tables(driver)

    def scratch_bytes(self, frame: FrameSize, rule: ResizeRule) -> int:
        """Bytes that `prepare` needs between its two passes; 0 where there is one."""
        to = rule.network_size(frame)
        if frame.height == to.height or frame.width == to.width or _opencv(rule):
            return 0
        rows_first = vertical_first(frame.height, frame.width, to.height, to.width)
        between = (to.height * frame.width) if rows_first else (frame.height * to.width)
        return 3 * between

    def prepare(
        self, frame: DeviceFrame, rule: ResizeRule, to: int, scratch: int, stream: Stream
    ) -> None:
        """Resize `frame` by `rule` and write it to `to`, uint8 RGB `[h, w, 3]`."""
        size = rule.network_size(frame.size)
        if size == frame.size:
            self._columns(frame, 0, jobs.TapsTable(), size.width, to, stream)
        elif _opencv(rule):
            self._bilinear(frame, size, to, stream)
        else:
            self._pillow(frame, rule, size, to, scratch, stream)

    def _pillow(
        self,
        frame: DeviceFrame,
        rule: ResizeRule,
        size: FrameSize,
        to: int,
        scratch: int,
        stream: Stream,
    ) -> None:
        name = cast("Filter", rule.filter.partition("-")[2])
        have = frame.size
        wide, high = have.width != size.width, have.height != size.height
        columns = rows = jobs.TapsTable()
        if wide:
            columns = self.tables.taps(have.width, size.width, name, stream)
        if high:
            rows = self.tables.taps(have.height, size.height, name, stream)
        if not high:
            self._columns(frame, 0, columns, size.width, to, stream)
        elif not wide:
            self._rows(frame, rows, size.height, to, stream)
        elif vertical_first(have.height, have.width, size.height, size.width):
            self._rows(frame, rows, size.height, scratch, stream)
            between = FrameSize(size.height, have.width)
            self._columns(_rgb(scratch, between), 0, columns, size.width, to, stream)
        else:
            self._columns(frame, 0, columns, size.width, scratch, stream)
            between = FrameSize(have.height, size.width)
            self._rows(_rgb(scratch, between), rows, size.height, to, stream)

    def _columns(
        self,
        frame: DeviceFrame,
        first_row: int,
        taps: jobs.TapsTable,
        width: int,
        to: int,
        stream: Stream,
    ) -> None:
        rows = frame.size.height - first_row
        job = _resample(frame, taps, rows, width, first_row, to)
        self._over_pixels("resample_columns", job, width, rows, stream)

    def _rows(
        self, frame: DeviceFrame, taps: jobs.TapsTable, rows: int, to: int, stream: Stream
    ) -> None:
        width = frame.size.width
        job = _resample(frame, taps, rows, width, 0, to)
        self._over_pixels("resample_rows", job, width, rows, stream)

    def _bilinear(self, frame: DeviceFrame, size: FrameSize, to: int, stream: Stream) -> None:
        x = self._bilinear_axis(frame.size.width, size.width, stream)
        y = self._bilinear_axis(frame.size.height, size.height, stream)
        job = jobs.BilinearJob(
            *(frame.address, frame.chroma, to),
            *(x["lower"], x["upper"], x["weight"]),
            *(y["lower"], y["upper"], y["weight"]),
            *(frame.pitch, size.height, size.width, jobs.FORMATS[frame.format]),
        )
        self._over_pixels("resample_bilinear", job, size.width, size.height, stream)

    def _bilinear_axis(self, inputs: int, outputs: int, stream: Stream) -> dict[str, int]:
        def make() -> dict[str, Array]:
            one = bilinear_axis(inputs, outputs)
            return {"lower": one.lower, "upper": one.upper, "weight": one.weight}

        return dict(self.tables.arrays(("bilinear", inputs, outputs), make, stream))

    def class_map(
        self,
        logits: int,
        shape: tuple[int, int, int, int],
        dtype: str,
        size: FrameSize,
        to: int,
        stream: Stream,
    ) -> None:
        """Logits `[N, C, h, w]` at `logits` -> class maps `[N, H, W]` at `to`.

        The map is uint8 up to 256 classes, int32 above.
        """
        job = self._class_map_job(logits, shape, dtype, size, to, stream)
        batch, _, height, width = shape
        grid = (-(-width // jobs.TILE_X), -(-height // jobs.TILE_Y), batch)
        self._launch("class_map", grid, jobs.CELLS, job, stream)

    def confidence(
        self,
        logits: int,
        shape: tuple[int, int, int, int],
        dtype: str,
        size: FrameSize,
        class_map: int,
        to: int,
        stream: Stream,
    ) -> None:
        """The softmax probability of each pixel's class, float32 `[N, H, W]`, to `to`."""
        job = self._class_map_job(logits, shape, dtype, size, class_map, stream)
        grid = (-(-size.pixels // jobs.PIXELS), 1, shape[0])
        self._launch("confidence", grid, jobs.PIXELS, jobs.ConfidenceJob(job, to), stream)

    def _class_map_job(
        self,
        logits: int,
        shape: tuple[int, int, int, int],
        dtype: str,
        size: FrameSize,
        to: int,
        stream: Stream,
    ) -> jobs.ClassMapJob:
        _, classes, height, width = shape
        small = classes <= 256
        return jobs.ClassMapJob(
            logits,
            self.tables.axis(height, size.height, stream),
            self.tables.axis(width, size.width, stream),
            *(classes, dtype == "float16"),
            size.pixels >= _PIXELS_PER_CELL_TO_PRUNE * height * width,
            *(to if small else None, None if small else to),
        )

    def overlay(
        self,
        frame: int,
        class_map: int,
        palette: tuple[tuple[int, int, int], ...],
        size: FrameSize,
        opacity: float,
        to: int,
        stream: Stream,
    ) -> None:
        """A BGR frame under its classes' colours, to `to`; `palette` in RGB, one per class."""

        def make() -> dict[str, Array]:
            colours = np.asarray([*palette, (0, 0, 0)], np.uint8)
            return {"palette": colours[:, ::-1]}

        at = self.tables.arrays(("palette", palette), make, stream)["palette"]
        small = len(palette) <= 256
        job = jobs.OverlayJob(
            *(frame, class_map if small else None, None if small else class_map, at, to),
            *(len(palette), size.pixels, opacity),
        )
        grid = (-(-size.pixels // jobs.OVERLAY_PIXELS), 1, 1)
        self._launch("overlay", grid, jobs.OVERLAY_PIXELS, job, stream)

    def _over_pixels(self, name: str, job: object, width: int, rows: int, stream: Stream) -> None:
        self._launch(name, (-(-width // jobs.PIXELS), rows, 1), jobs.PIXELS, job, stream)

    def _launch(
        self, name: str, grid: tuple[int, int, int], threads: int, job: object, stream: Stream
    ) -> None:
        self._driver.launch(self._functions[name], grid, (threads, 1, 1), [job], stream)

    def close(self) -> None:
        """Give back the tables; safe to call twice."""
        self.tables.close()


def _loaded(driver: Driver, cuda_version: tuple[int, int] | None) -> tuple[Module, str]:
    """The first image that the driver takes, and how it was chosen; the last one's refusal."""
    images = images_for(driver.capability, cuda_version)
    refused = ""
    for image in images:
        try:
            return driver.load_module(image.data), image.how + refused
        except BackendError as error:
            refused = f" (another was refused: {error.found})"
    raise AssertionError("images_for ends with an error")


def _opencv(rule: ResizeRule) -> bool:
    return rule.filter.startswith("opencv")


def _rgb(address: int, size: FrameSize) -> DeviceFrame:
    return DeviceFrame(address, size, 3 * size.width, "rgb")


def _resample(
    frame: DeviceFrame, taps: jobs.TapsTable, rows: int, columns: int, first_row: int, to: int
) -> jobs.ResampleJob:
    return jobs.ResampleJob(
        *(frame.address, frame.chroma, to, taps, frame.pitch, frame.size.width),
        *(rows, columns, jobs.FORMATS[frame.format], first_row),
    )
