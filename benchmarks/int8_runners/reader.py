"""Calibration frames as ONNX Runtime's calibrators and those built on them ask for them.

Imported in the peers' own environments: nothing of segformer_deploy, only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class FrameReader:
    """The frames of a folder (`*.npy`, uint8 `[1, h, w, 3]`), one by one, in order.

    Has the methods of onnxruntime's CalibrationDataReader and of ModelOpt's extension of it;
    neither library checks the class.

    Args:
        folder: of the frames.
        report: called with the number of frames handed out.
    """

    def __init__(self, folder: Path, report: Callable[[int], object]) -> None:
        self._files = sorted(folder.glob("*.npy"))
        self._report = report
        self._next = 0

    def __len__(self) -> int:
        return len(self._files)

    def get_next(self) -> dict[str, Any] | None:
        """The next frame, or None after the last."""
        if self._next == len(self._files):
            return None
        self._next += 1
        self._report(self._next)
        return self._frame(self._next - 1)

    def get_first(self) -> dict[str, Any]:
        """The first frame, for a trial run; the order goes on where it was."""
        return self._frame(0)

    def rewind(self) -> None:
        self._next = 0

    def _frame(self, index: int) -> dict[str, Any]:
        return {"image": np.load(self._files[index])}
