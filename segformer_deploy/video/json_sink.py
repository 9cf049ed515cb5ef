"""Class shares as JSON lines: one object per frame, for programs that read along."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy import files
from segformer_deploy.errors import OutputError
from segformer_deploy.spec import default_class_names
from segformer_deploy.video.frame import Frame

STDOUT = "-"


class JsonLinesSink:
    """A log of what each frame shows, one JSON object per line::

        {"source": "camera:0", "index": 7, "time_s": 0.28, "captured_s": 5121.42,
         "size": "480x640", "latency_ms": 31.4, "shares": {"road": 0.41, "sky": 0.2}}

    `time_s` is the frame's own time (null for stills), `captured_s` the `time.monotonic()` of
    its capture (null for files), `latency_ms` from there to here (null where nobody measured
    it). `shares` are of the pixels, largest first, without those that are 0.

    Other results are written aside and renamed when they are complete. This one is not: a log
    of a live stream has no end, and is there to be read while it grows. So each line is written
    to its final place, whole and at once. An older file of that name is replaced. Where the
    disk fills up in the middle of a line, what was written of it is taken back.

    A context manager. Several threads may write; lines do not mix.

    Args:
        output: a file, or ``-`` for standard output.
        class_names: one per class; without them classes are called by their number.
        source: what frames are said to come from, unless `write` says otherwise.
        append: keep an older file, and go on behind it.

    Raises:
        OutputError: it cannot be written, or the reader of standard output has gone.
    """

    def __init__(
        self,
        output: str | Path,
        class_names: Sequence[str] | None = None,
        source: str = "",
        *,
        append: bool = False,
    ) -> None:
        self.path = Path(output)
        self.source = source
        self._names = tuple(class_names) if class_names is not None else None
        self._lock = threading.Lock()
        self._own = str(output) != STDOUT
        if not self._own:
            sys.stdout.flush()  # what was printed before comes first
            self._handle = _stdout_number()
            return
        with files.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND
            self._handle = os.open(self.path, flags if append else flags | os.O_TRUNC, 0o644)

    def write(
        self,
        frame: Frame,
        class_map: npt.NDArray[Any],
        shares: npt.NDArray[np.float64],
        latency_ms: float | None,
        source: str | None = None,
    ) -> None:
        """Write the line of a frame.

        Args:
            frame: for its index, times and size.
            class_map: integers `[H, W]`; its size is what the line says.
            shares: float64 `[classes]`, as `overlay.class_shares` gives them.
            latency_ms: from capture until now, or None.
            source: instead of the sink's own, where several streams share it.
        """
        height, width = class_map.shape
        line = {
            "source": self.source if source is None else source,
            "index": frame.index,
            "time_s": _rounded(frame.time_s, 6),
            "captured_s": _rounded(frame.captured_s, 6),
            "size": f"{height}x{width}",
            "latency_ms": _rounded(latency_ms, 3),
            "shares": self._named(shares),
        }
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            if self._handle < 0:
                raise OutputError(f"{self.path} is closed already", "an open log")
            self._put(text.encode())

    def _named(self, shares: npt.NDArray[np.float64]) -> dict[str, float]:
        names = self._names
        if names is None or len(names) < len(shares):
            names = (*(names or ()), *default_class_names(len(shares))[len(names or ()) :])
        order = np.argsort(-shares, kind="stable")
        return {names[i]: round(float(shares[i]), 6) for i in order if shares[i] > 0}

    def _put(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._handle, data[done:])
        except BrokenPipeError:
            raise OutputError(
                "nobody reads standard output any more",
                "a reader that stays until the end",
                "write the lines to a file instead",
            ) from None
        except OSError as error:
            if self._own and done:
                with suppress(OSError):  # a pipe cannot be taken back
                    os.ftruncate(self._handle, os.fstat(self._handle).st_size - done)
            place = self.path if self._own else Path("standard output")
            raise files.output_error(place, error) from error

    def close(self) -> None:
        """Close the file; standard output stays open. Safe to call twice."""
        with self._lock:
            handle, self._handle = self._handle, -1
        if self._own and handle >= 0:
            with files.writing(self.path):
                os.close(handle)

    def __enter__(self) -> JsonLinesSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _stdout_number() -> int:
    """Standard output's own number: past Python's buffer, so that no line waits in it."""
    try:
        return sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        raise OutputError(
            "this process has no standard output", "one", "write the lines to a file"
        ) from None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
