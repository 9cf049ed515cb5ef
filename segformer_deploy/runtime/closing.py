"""Giving things back, all of them, whatever one of them says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from segformer_deploy.cuda.held import run_all


class Closable(Protocol):
    def close(self) -> None: ...


def close_all(closers: Iterable[Closable]) -> None:
    """Close each; the first error is raised when all have been."""
    run_all(*(one.close for one in closers))
