"""Which precision an engine was built in, and why; light enough for a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from segformer_deploy.spec import Precision

Say = Callable[[str], None]
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(title, total) -> a context that gives `advance(done)`."""

REPORT_NAME = "precision.json"


@dataclass(frozen=True)
class Choice:
    """What an engine is built from.

    Attributes:
        requested, delivered: precision asked for and taken.
        report: the contents of `precision.json`; None where no precision was asked for.
    """

    requested: Precision
    delivered: Precision
    notes: tuple[str, ...] = ()
    report: dict[str, Any] | None = None
