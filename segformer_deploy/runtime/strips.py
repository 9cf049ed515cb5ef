"""Rows of an image split between threads; for work that runs without the interpreter lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from segformer_deploy.engine.cores import usable_cores

Rows = Callable[[int, int], None]

STRIPS_PER_THREAD = 2
"""More strips than threads, since strips differ in work (borders between classes cost more)."""

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    # A forked child inherits the pool's object without its threads.
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_in_strips(work: Rows, rows: int, threads: int | None, fewest_rows: int) -> None:
    """Call `work(begin, end)` on strips that cover 0..rows, on several threads.

    Args:
        work: handles rows begin..end; strips never overlap.
        rows: how many there are.
        threads: the most to use, this one among them; None: `usable_cores()`.
        fewest_rows: a strip smaller than this is not worth a thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: at least 1")
    threads = usable_cores() if threads is None else threads
    threads = max(1, min(threads, rows // max(1, fewest_rows)))
    if threads == 1:
        work(0, rows)
        return
    count = min(threads * STRIPS_PER_THREAD, rows // max(1, fewest_rows))
    edges = [rows * i // count for i in range(count + 1)]
    left = deque(pairwise(edges))

    def take_until_done() -> None:
        while True:
            try:
                begin, end = left.popleft()
            except IndexError:
                return
            work(begin, end)

    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(32, usable_cores()), thread_name_prefix="segdeploy")
    helpers = [_pool.submit(take_until_done) for _ in range(threads - 1)]
    try:
        take_until_done()
    finally:
        # A helper that has not begun has nothing left to do; the others must finish before
        # the caller may touch the arrays again.
        left.clear()
        errors = [h.exception() for h in helpers if not h.cancel()]
    for error in errors:
        if error is not None:
            raise error
