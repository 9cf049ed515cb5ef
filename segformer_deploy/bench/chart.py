"""A chart begun and written, where matplotlib is installed; it is no dependency of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from segformer_deploy.files import atomic_file


def empty_figure(width: float, height: float) -> Any | None:
    """A matplotlib figure of so many inches, or None where matplotlib is not installed."""
    try:
        # Qt and Tk look for a display: this backend never does.
        os.environ.setdefault("MPLBACKEND", "Agg")
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write it as a PNG, aside and renamed; OutputError where that fails."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
