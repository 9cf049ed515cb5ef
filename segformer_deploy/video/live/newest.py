"""A place for one frame: a new one takes the place of the old, which is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """One item, put by one thread and taken by another.

    Args:
        ring: called after each change, by the thread that made it.
    """

    def __init__(self, ring: Callable[[], None] = lambda: None) -> None:
        self.ring = ring
        self._lock = threading.Lock()
        self._item: T | None = None

    def put(self, item: T) -> bool:
        """Put the item there; whether one that nobody took went for it."""
        with self._lock:
            replaced = self._item is not None
            self._item = item
        self.ring()
        return replaced

    def take(self) -> T | None:
        """The item, or None where there is none; never waits."""
        with self._lock:
            item, self._item = self._item, None
        return item

    def peek(self) -> T | None:
        """The item, left in its place."""
        return self._item

    @property
    def full(self) -> bool:
        return self._item is not None
