"""Class maps as runs in a Parquet file: one row per frame.

A run is a number of pixels of one class in a row, counted line by line from the upper left corner,
across the ends of lines. ``numpy.repeat(values, lengths).reshape(height, width)`` is the class map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy import files
from segformer_deploy.errors import MissingDependencyError
from segformer_deploy.video.frame import Frame

_ROWS = 32
"""Frames in one row group: what lies in memory, and what a reader takes at once."""
CLASS_NAMES = b"class_names"

Runs = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


def need_pyarrow() -> None:
    """MissingDependencyError where Parquet files cannot be written."""
    _pyarrow()


def runs_of(class_map: npt.NDArray[Any]) -> Runs:
    """The runs of a class map `[H, W]`: values and lengths, int32 `[runs]` each."""
    flat = np.ascontiguousarray(class_map).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return flat[starts].astype(np.int32), lengths.astype(np.int32)


def class_map_of(row: dict[str, Any]) -> npt.NDArray[np.int32]:
    """The class map, int32 `[H, W]`, of a row of the file as a dictionary."""
    flat = np.repeat(
        np.asarray(row["run_values"], np.int32), np.asarray(row["run_lengths"], np.int64)
    )
    return flat.reshape(row["height"], row["width"])


class RunLengthLog:
    """Writes a row for each frame: index, time_s, height, width, the runs and the class shares.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._path = path
        self._arrow, self._parquet = _pyarrow()
        self._rows: list[dict[str, Any]] = []
        self._schema = _schema(self._arrow, class_names)
        with files.writing(path):
            self._writer: Any = self._parquet.ParquetWriter(str(path), self._schema, **_OPTIONS)

    def write(
        self,
        frame: Frame,
        class_map: npt.NDArray[Any],
        shares: npt.NDArray[np.float64],
        latency_ms: float | None,
    ) -> None:
        """Write a frame's row; the latency of a file's frame means nothing and is left out."""
        values, lengths = runs_of(class_map)
        self._rows.append(
            {
                "index": frame.index,
                "time_s": frame.time_s,
                "height": class_map.shape[0],
                "width": class_map.shape[1],
                "run_values": values,
                "run_lengths": lengths,
                "class_shares": shares,
            }
        )
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's end; safe to call twice."""
        writer = self._writer
        if writer is not None:
            self._flush()
            self._writer = None
            with files.writing(self._path):
                writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._rows = []
            with files.writing(self._path):
                self._writer.write_table(table)

    def __enter__(self) -> RunLengthLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def join_logs(path: Path, logs: Iterable[Path]) -> None:
    """One file of the rows of all, in order; OutputError where it cannot be written."""
    _, parquet = _pyarrow()
    writer: Any = None
    with files.writing(path):
        try:
            for log in logs:
                with parquet.ParquetFile(str(log)) as file:
                    if writer is None:
                        schema = file.schema_arrow
                        writer = parquet.ParquetWriter(str(path), schema, **_OPTIONS)
                    for number in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(number))
        finally:
            if writer is not None:
                writer.close()


_OPTIONS = {"compression": "zstd"}


def _schema(arrow: Any, class_names: Sequence[str]) -> Any:
    fields = [
        arrow.field("index", arrow.int64(), nullable=False),
        arrow.field("time_s", arrow.float64()),
        arrow.field("height", arrow.int32(), nullable=False),
        arrow.field("width", arrow.int32(), nullable=False),
        arrow.field("run_values", arrow.list_(arrow.int32()), nullable=False),
        arrow.field("run_lengths", arrow.list_(arrow.int32()), nullable=False),
        arrow.field("class_shares", arrow.list_(arrow.float64()), nullable=False),
    ]
    return arrow.schema(fields, metadata={CLASS_NAMES: json.dumps(list(class_names)).encode()})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "Parquet files") from error
    return pyarrow, pyarrow.parquet
