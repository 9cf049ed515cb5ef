"""What every sink does: take pictures, be closed, or be given up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

from segformer_deploy.errors import OutputError
from segformer_deploy.video.frame import Frame, Picture


class Sink(ABC):
    """Where pictures go: a context manager.

    Leaving it well or by Ctrl-C finishes what was written; by another error gives it up.

    Attributes:
        path: the file or folder.
        notes: what the reader ought to know, one sentence each; complete after `close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.closed = False

    @abstractmethod
    def write(self, frame: Frame, picture: Picture) -> None:
        """Write one picture (uint8 `[H, W, 3]`, BGR) that belongs to `frame`.

        Raises:
            OutputError: it cannot be written.
        """

    def prepare_to_close(self) -> None:
        """Begin what closing takes time for: several sinks then need no longer than one."""
        return None

    def close(self) -> None:
        """Finish what was written; safe to call twice."""
        self.closed = True

    def abort(self) -> None:
        """Give up: keep no half-written file; safe to call twice."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise OutputError(f"{self.path} is closed already", "an open sink")

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close()
        else:
            self.abort()
