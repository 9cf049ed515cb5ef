"""Whose frame is next where several sources share one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segformer_deploy.video.bell import Bell
from segformer_deploy.video.pipeline import Line
from segformer_deploy.video.threads import Timed


class Turns:
    """Gives the frames of all lines, the line first that has waited longest since its last.

    So no source waits longer than one frame of each other source, however fast those are.

    Args:
        lines: started.
        bell: rung by each line when it may have become ready.
        ended: told the number of a line that has no more frames.
    """

    def __init__(self, lines: Sequence[Line], bell: Bell, ended: Callable[[int], None]) -> None:
        self._lines, self._bell, self._ended = lines, bell, ended
        self._order = list(range(len(lines)))

    def next(self) -> tuple[int, Timed] | None:
        """A line's number and its frame; None when all lines have ended. Waits for one."""
        while self._order:
            if len(self._order) == 1:
                number: int | None = self._order[0]
            else:
                self._bell.clear()
                number = next((n for n in self._order if self._lines[n].ready), None)
            if number is None:
                self._bell.wait()
                continue
            timed = self._lines[number].next()
            self._order.remove(number)
            if timed is not None:
                self._order.append(number)
                return number, timed
            self._ended(number)
        return None
