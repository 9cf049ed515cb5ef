"""Which precision an engine was built in, and why; light enough for a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from segformer_deploy.spec import Precision

Say = Callable[[str], None]
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(title, total) -> a context that gives `advance(done)`."""


@contextmanager
def silent(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    """A `Progress` that shows nothing."""
    yield lambda _done: None


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
