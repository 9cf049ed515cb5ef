"""Frames one after the other on a GPU, several under way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from segformer_deploy.cuda.held import run_all
from segformer_deploy.engine.session import Array
from segformer_deploy.runtime.batch import Frame
from segformer_deploy.runtime.device_kernels import Format
from segformer_deploy.runtime.device_segment import DeviceSegment
from segformer_deploy.runtime.pipeline import Ticket


def stream_on_gpu(
    gpu: DeviceSegment, frames: Iterable[Frame], format: Format, check: Callable[[Frame], None]
) -> Iterator[tuple[Frame, Array]]:
    """(frame, class map) of each frame, in order.

    Args:
        check: raises FrameError for a frame that cannot be segmented. Its error, like one of
            `frames` itself, comes after the answers of the frames before it.
    """
    flying: deque[tuple[Frame, Ticket]] = deque()

    def land() -> tuple[Frame, Array]:
        frame, ticket = flying.popleft()
        return frame, gpu.collect(ticket)[0][0]

    source, ended = iter(frames), None
    try:
        while ended is None:
            try:
                frame = next(source)
                check(frame)
            except Exception as error:
                ended = error
                break
            flying.append((frame, gpu.submit([frame], format)))
            if len(flying) == gpu.depth:
                yield land()
        while flying:
            yield land()
    finally:
        # The caller went, or the GPU failed: the rest must land.
        run_all(*(partial(gpu.collect, ticket) for _, ticket in flying))
    if not isinstance(ended, StopIteration):
        raise ended
