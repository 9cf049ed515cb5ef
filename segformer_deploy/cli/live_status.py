"""One line for each live source, renewed while a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segformer_deploy.cli.common import say

if TYPE_CHECKING:
    from rich.text import Text

    from segformer_deploy.video.live.stats import StreamStats

_PER_SECOND = 2


def line_from_stats(stats: StreamStats) -> str:
    """What a stream does just now, on one line."""
    parts = [f"{stats.name}: {stats.state}"]
    if stats.error:
        parts.append(stats.error)
    parts.append(f"in {stats.fps_in:.1f}/s")
    parts.append(f"shown {stats.shown} ({stats.fps_shown:.1f}/s)")
    parts.append(f"dropped {stats.dropped}")
    if stats.p50_ms is not None and stats.p99_ms is not None:
        parts.append(f"latency p50 {stats.p50_ms:.0f} ms, p99 {stats.p99_ms:.0f} ms")
    if stats.stalls or stats.reconnects:
        parts.append(f"stalls {stats.stalls}, reconnects {stats.reconnects}")
    if stats.flicker is not None:
        parts.append(f"flicker {100 * stats.flicker:.2f} %")
    return ", ".join(parts)


@contextmanager
def live_status(stats: Callable[[], Sequence[StreamStats]]) -> Iterator[None]:
    """Show `stats` on stderr, twice a second where that is a terminal.

    Elsewhere, as in a service's journal, a line for each change: lost, stalled, running again.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        with _changes(stats):
            yield
        return
    with Live(
        get_renderable=lambda: _text(stats()),
        console=console,
        refresh_per_second=_PER_SECOND,
        transient=True,
    ):
        yield


@contextmanager
def _changes(stats: Callable[[], Sequence[StreamStats]]) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=_tell_changes, args=(stats, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1.0)


def _tell_changes(stats: Callable[[], Sequence[StreamStats]], done: threading.Event) -> None:
    known = [(one.state, one.reconnects) for one in stats()]
    while not done.wait(1 / _PER_SECOND):
        now = stats()
        for before, one in zip(known, now, strict=True):
            # The end is told by what comes after it.
            if one.state != "ended" and (one.state, one.reconnects) != before:
                say(line_from_stats(one))
        known = [(one.state, one.reconnects) for one in now]


def _text(stats: Sequence[StreamStats]) -> Text:
    from rich.text import Text

    # Not markup: a camera's name may hold brackets.
    return Text("\n".join(line_from_stats(one) for one in stats))
