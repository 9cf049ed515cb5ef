"""Ctrl-C only between two steps, and never unnoticed.

Only Python's own handler is ever replaced, and only for the length of a block: where a program
has a handler of its own, or in another thread than the main one (which gets no
KeyboardInterrupt), nothing is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class _Watch:
    """A handler that raises KeyboardInterrupt as Python's does, and remembers that it did."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        raise KeyboardInterrupt


@contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed since the block began.

    Python drops an exception that comes while it runs a destructor or a callback of its
    garbage collector, KeyboardInterrupt too. A loop that asks once a turn stops all the same.
    """
    watch = _Watch()
    if not _may_replace(signal.getsignal(signal.SIGINT)):
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, watch)
    try:
        yield lambda: watch.pressed
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C while the block runs; raise KeyboardInterrupt at its end instead.

    A video file that loses a packet between the encoder and the container shows broken
    pictures from there on. Blocks may be nested.
    """
    previous = signal.getsignal(signal.SIGINT)
    if not _may_replace(previous):
        yield
        return
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        if isinstance(previous, _Watch):
            previous.pressed = True
        raise KeyboardInterrupt


def _may_replace(handler: object) -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and (handler is signal.default_int_handler or isinstance(handler, _Watch))
