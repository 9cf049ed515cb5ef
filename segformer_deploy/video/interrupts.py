"""Ctrl-C and SIGTERM only between two steps, and never unnoticed.

Only Python's own handler, or ours, is ever replaced, and only for the length of a block: where a
program has a handler of its own, or in another thread than the main one (which gets no
KeyboardInterrupt), nothing is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Watch:
    """A handler that raises KeyboardInterrupt as Python's does, and remembers that it did."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Have SIGTERM end what the block does as Ctrl-C would; give a function that tells if it did.

    Services are stopped that way, and so are jobs that ignore Ctrl-C because they run behind.
    """
    watch = _Watch()
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: False
        return
    signal.signal(signal.SIGTERM, watch)
    try:
        yield lambda: watch.pressed
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed since the block began.

    Python drops an exception that comes while it runs a destructor or a callback of its
    garbage collector, KeyboardInterrupt too. A loop that asks once a turn stops all the same.
    SIGTERM counts where `terminable` has made it the same.
    """
    watch = _Watch()
    term = signal.getsignal(signal.SIGTERM)

    def pressed() -> bool:
        return watch.pressed or (isinstance(term, _Watch) and term.pressed)

    handler = _ours().get(signal.SIGINT)
    if handler is None:
        yield pressed
        return
    signal.signal(signal.SIGINT, watch)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C while the block runs; raise KeyboardInterrupt at its end instead.

    A video file that loses a packet between the encoder and the container shows broken
    pictures from there on. Blocks may be nested. SIGTERM likewise, as in `watched`.
    """
    before = _ours()
    if not before:
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    for number in before:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        for came_one in came:
            handler = before[signal.Signals(came_one)]
            if isinstance(handler, _Watch):
                handler.pressed = True
        raise KeyboardInterrupt


def _ours() -> dict[signal.Signals, Callable[[int, FrameType | None], object]]:
    """The handlers that may be replaced, by their signals."""
    if not _in_main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {
        number: handler
        for number, handler in found.items()
        if handler is signal.default_int_handler or isinstance(handler, _Watch)
    }


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
