"""The process of a `LocalPool`'s worker: gets packed tasks through a pipe, sends packed answers.

It never outlives its pool: when the process that started it is gone, killed or not, it ends at
once, whatever it is doing. Ctrl-C is the starter's business; SIGTERM ends it as an exception
would, so that files written aside are removed.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from types import FrameType

from segformer_deploy.batch import answers
from segformer_deploy.batch.answers import Answer, MakeWorker


def serve(pipe: Connection, make_worker: MakeWorker, timeout: float | None) -> None:
    """Make the worker, say so (or why not), then answer tasks until the pipe is closed."""
    _settle()
    worker, failure = answers.make(make_worker)
    with suppress(BrokenPipeError):
        pipe.send_bytes(Answer(failure=failure).packed())
        if worker is None:
            return
        try:
            while True:
                pipe.send_bytes(answers.answer_packed(worker, pipe.recv_bytes(), timeout))
        except (EOFError, ConnectionResetError):
            return  # no more tasks
        finally:
            answers.close(worker)


def _settle() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_follow_parent, daemon=True).start()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
