"""Cameras that share devices, frame by frame: which are dropped, and how old the answers are.

Each camera gives a frame each period, at a phase of its own, and stays with one device. A device
works on `streams` frames at a time. Two ways to wait:

``newest``: as `segdeploy run` has it for live sources: each camera has one place, where a new frame
    takes the place of one that nobody took (which is dropped); the camera first that has waited
    longest since its last turn.
``queue``: every frame in order of arrival, none dropped.

An age runs from a frame's arrival at the device to its class map. The same seed gives the same
frames to any number of devices, so that two numbers compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import InputError

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Policy = Literal["newest", "queue"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

COUNTED = (0.2, 0.9)
"""The part of the simulated time whose frames count: all begins idle, and the last frames of all
have no newer ones that could take their places."""


@dataclass(frozen=True)
class Frames:
    """Frames in order of arrival: three vectors of one length.

    Attributes:
        camera: whose frame it is, from 0.
        arrival_s: seconds, rising.
        service_s: how long a device works on it, seconds.
    """

    camera: Whole
    arrival_s: Floats
    service_s: Floats

    def __len__(self) -> int:
        return len(self.camera)


@dataclass(frozen=True)
class Batch:
    """Frames that wait are taken together, up to `most`, as soon as a stream is free.

    Nobody waits for a batch to fill. A batch takes what its first frame would alone, and `more_s`
    for each further one.
    """

    most: int = 1
    more_s: float = 0.0


ALONE = Batch()


@dataclass(frozen=True)
class Served:
    """What became of each of the `frames`.

    Attributes:
        start_s, end_s: when a device began and ended with it; NaN where it was dropped.
    """

    frames: Frames
    start_s: Floats
    end_s: Floats

    @property
    def dropped(self) -> npt.NDArray[np.bool_]:
        return np.isnan(self.end_s)

    @property
    def age_s(self) -> Floats:
        """Of each frame's answer; NaN where it was dropped."""
        age: Floats = self.end_s - self.frames.arrival_s
        return age

    def counts_at(self, moment_s: float) -> tuple[int, int, int, int]:
        """(in, shown, dropped, pending) of the frames that came until then; in is their sum.

        A frame that will be dropped counts as dropped from its arrival.
        """
        came = self.frames.arrival_s <= moment_s
        gone = int((came & self.dropped).sum())
        shown = int((came & (self.end_s <= moment_s)).sum())
        pending = int((came & (self.end_s > moment_s)).sum())
        return int(came.sum()), shown, gone, pending


def camera_frames(
    cameras: int,
    period_s: float,
    seconds: float,
    service_s: Floats,
    rng: np.random.Generator,
    jitter_s: float = 0.0,
) -> Frames:
    """The frames of `cameras` of random phase over `seconds`.

    Args:
        service_s: what a frame may take; one of these is drawn for each frame.
        jitter_s: each frame comes late by up to so much, uniformly; never before an earlier one.
    """
    count = max(1, int(seconds / period_s))
    phases = rng.uniform(0, period_s, (cameras, 1))
    arrival = phases + period_s * np.arange(count)
    if jitter_s:
        late = arrival + rng.uniform(0, jitter_s, arrival.shape)
        arrival = np.maximum.accumulate(late, axis=1)
    service = rng.choice(service_s, arrival.shape)
    owner = np.repeat(np.arange(cameras, dtype=np.int64), count)
    order = np.argsort(arrival, axis=None, kind="stable")
    return Frames(owner[order], arrival.ravel()[order], service.ravel()[order])


def serve(
    frames: Frames, devices: int, streams: int, policy: Policy, batch: Batch = ALONE
) -> Served:
    """Let `devices` work on the frames, each for every `devices`-th camera, until none is left.

    InputError where there is no device, no stream, or no frame in a batch.
    """
    if min(devices, streams, batch.most) < 1:
        raise InputError(
            f"{devices} devices of {streams} streams, batches of {batch.most}",
            "at least one of each",
        )
    start, end = np.full((2, len(frames)), np.nan)
    for mine in _shares(frames.camera % devices):
        one = Frames(frames.camera[mine], frames.arrival_s[mine], frames.service_s[mine])
        if policy == "newest":
            start[mine], end[mine] = _newest(one, streams, batch)
        elif streams == batch.most == 1:
            start[mine], end[mine] = _in_order(one)
        else:
            start[mine], end[mine] = _in_order_of_several(one, streams, batch)
    return Served(frames, start, end)


def _shares(device: Whole) -> Iterator[Whole]:
    """The frames' numbers, device by device, each in order of arrival."""
    order = np.argsort(device, kind="stable")
    edges = np.flatnonzero(np.diff(device[order])) + 1
    yield from np.split(order, edges)


def _in_order(frames: Frames) -> tuple[Floats, Floats]:
    """Starts and ends in a queue with one server: Lindley's recursion, all frames at once."""
    before = np.concatenate(([0.0], np.cumsum(frames.service_s)[:-1]))
    start: Floats = np.maximum.accumulate(frames.arrival_s - before) + before
    # Rounding must not let a frame begin before it came.
    start = np.maximum(start, frames.arrival_s)
    return start, start + frames.service_s


def _in_order_of_several(frames: Frames, streams: int, batch: Batch) -> tuple[Floats, Floats]:
    """The same with several servers: the next frames go to the one that is free first."""
    came: list[float] = frames.arrival_s.tolist()
    takes: list[float] = frames.service_s.tolist()
    starts, ends = [0.0] * len(came), [0.0] * len(came)
    free = [0.0] * streams
    number = 0
    while number < len(came):
        begin = max(free[0], came[number])
        last = number + 1
        while last < len(came) and last - number < batch.most and came[last] <= begin:
            last += 1
        end = begin + takes[number] + (last - number - 1) * batch.more_s
        heapreplace(free, end)
        for frame in range(number, last):
            starts[frame], ends[frame] = begin, end
        number = last
    return np.array(starts, np.float64), np.array(ends, np.float64)


def _newest(frames: Frames, streams: int, batch: Batch) -> tuple[Floats, Floats]:
    """Where a camera's newest frame takes the place of its last; NaN where a frame is dropped."""
    names, owners = np.unique(frames.camera, return_inverse=True)
    owner: list[int] = owners.tolist()
    came: list[float] = frames.arrival_s.tolist()
    takes: list[float] = frames.service_s.tolist()
    starts, ends = [math.nan] * len(came), [math.nan] * len(came)
    place = [-1] * len(names)  # the frame that waits, by camera
    last = list(range(-len(names), 0))  # the number of its last turn, by camera
    waiting: list[tuple[int, int]] = []  # (last turn, camera), of each camera with a frame
    free = [0.0] * streams
    turn = number = 0
    while number < len(came) or waiting:
        now = free[0]
        if not waiting and came[number] > now:
            now = came[number]
        while number < len(came) and came[number] <= now:
            camera = owner[number]
            if place[camera] < 0:
                heappush(waiting, (last[camera], camera))
            place[camera] = number
            number += 1
        size = min(batch.most, len(waiting))
        end = now + (size - 1) * batch.more_s + takes[place[waiting[0][1]]]
        for _ in range(size):
            _, camera = heappop(waiting)
            frame, place[camera] = place[camera], -1
            last[camera] = turn
            turn += 1
            starts[frame], ends[frame] = now, end
        heapreplace(free, end)
    return np.array(starts, np.float64), np.array(ends, np.float64)
