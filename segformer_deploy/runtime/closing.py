"""Giving things back, all of them, whatever one of them says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Closable(Protocol):
    def close(self) -> None: ...


def close_all(closers: Iterable[Closable]) -> None:
    """Close each; the first error is raised when all have been.

    Ctrl-C too: on a board whose memory is short, what stays held is missed by the next run.
    """
    first: BaseException | None = None
    for one in closers:
        try:
            one.close()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first
