"""How many devices a number of cameras needs: the smallest that the simulation finds enough.

Closed forms say where to begin: with fewer, devices have no time for so many frames, whatever
their order. From there on `queueing` decides, always with the same frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segformer_deploy.bench.fleet_length import Length, frames_of, length_for
from segformer_deploy.bench.fleet_times import Times
from segformer_deploy.bench.queueing import ALONE, COUNTED, Batch, Policy, serve
from segformer_deploy.bench.queueing_theory import mean_wait, periodic_wait_percentile
from segformer_deploy.errors import InputError

_MOST_PERIODS = 5
"""Of jitter: what comes later than that is no frame that is late, but a camera that was away."""
_AROUND = range(-2, 4)
"""Numbers of devices beside the answer that are shown with it."""

OnTry = Callable[[int], object]
"""Called with each number of devices that was simulated."""


@dataclass(frozen=True)
class Fleet:
    """Cameras, and how a device treats their frames.

    Attributes:
        fps: frames per second of each camera.
        streams: frames that a device works on at a time.
        jitter_ms: by how much a frame may come late; InputError above five periods.
        batch, batch_ms: frames that a stream takes together at most, and what so many take; 1
            and None without batches.
    """

    cameras: int
    fps: float
    policy: Policy = "newest"
    streams: int = 1
    jitter_ms: float = 0.0
    batch: int = 1
    batch_ms: float | None = None

    def __post_init__(self) -> None:
        most = _MOST_PERIODS * 1000 / self.fps
        if not 0 <= self.jitter_ms <= most:
            raise InputError(
                f"a jitter of {self.jitter_ms:g} ms at {self.fps:g} frames/s",
                f"at most {_MOST_PERIODS} periods: {most:g} ms",
                "a smaller --jitter, or a lower --fps",
            )

    def least_ms(self, mean_ms: float) -> float:
        """What a frame takes at best: alone, or its share of a full batch."""
        return mean_ms if self.batch_ms is None else max(mean_ms, self.batch_ms) / self.batch

    def batched(self, mean_ms: float) -> Batch:
        """Batches that take `mean_ms` with one frame and `batch_ms` when full."""
        if self.batch_ms is None:
            return ALONE
        return Batch(self.batch, max(0.0, self.batch_ms - mean_ms) / (self.batch - 1) / 1000)

    def with_overhead(self, ms: float) -> Fleet:
        """The same, each frame taking `ms` longer, in a batch too."""
        return replace(
            self, batch_ms=None if self.batch_ms is None else self.batch_ms + self.batch * ms
        )

    def load(self, mean_ms: float, cameras: int | None = None) -> float:
        """Streams that the frames (of so many cameras) keep busy, in full batches."""
        number = self.cameras if cameras is None else cameras
        return number * self.fps * self.least_ms(mean_ms) / 1000

    def fullest(self, devices: int) -> int:
        """Cameras of the device that has most: they are dealt out evenly."""
        return math.ceil(self.cameras / devices)


def check_batch(fleet: Fleet, times: Times) -> None:
    """InputError where a full batch takes less than one frame, or more than its frames alone."""
    if fleet.batch_ms is None or times.mean <= fleet.batch_ms <= fleet.batch * times.mean:
        return
    raise InputError(
        f"a batch of {fleet.batch} that takes {fleet.batch_ms:g} ms",
        f"from {times.mean:.3g} ms (one frame) to {fleet.batch * times.mean:.3g} ms "
        f"({fleet.batch} frames one by one)",
        "measure both on the same device, or leave --batch out",
    )


@dataclass(frozen=True)
class Allowed:
    """What must be kept: the percentile of all answers' ages, and each camera's share of drops."""

    latency_ms: float | None
    percentile: str = "p99"
    drops_percent: float = 1.0


@dataclass(frozen=True)
class Standing:
    """How so many devices fare. Ages in ms; shares in percent.

    Attributes:
        busy: the share of the devices' time that the frames ask for; above 100 it is not there.
        drops, worst_drops: of all frames; of the camera that fares worst.
        stable: false where a queue grows for ever.
        settled: false where it could not be watched for long enough: ages would be older.
    """

    devices: int
    busy: float
    drops: float
    worst_drops: float
    age_ms: dict[str, float]
    stable: bool
    settled: bool
    within: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "devices": self.devices,
            "busy_percent": round(self.busy, 3),
            "drops_percent": round(self.drops, 4),
            "worst_camera_drops_percent": round(self.worst_drops, 4),
            "age_ms": {name: round(value, 3) for name, value in self.age_ms.items()},
            "stable": self.stable,
            "settled": self.settled,
            "within": self.within,
        }


@dataclass
class Answer:
    """The smallest number of devices, None where none is enough; and what was tried for it."""

    devices: int | None
    why_none: str | None
    tried: dict[int, Standing] = field(default_factory=dict)

    @property
    def standings(self) -> list[Standing]:
        return [self.tried[number] for number in sorted(self.tried)]


class Trial:
    """One fleet with one kind of device; the frames are the same each time.

    Args:
        ms: what a frame may take on a device: one value, or measured samples.
    """

    def __init__(self, fleet: Fleet, ms: tuple[float, ...], allowed: Allowed) -> None:
        self._fleet, self._allowed = fleet, allowed
        self._mean_ms = float(np.mean(ms))
        self._batch = fleet.batched(self._mean_ms)
        self._service = np.array(ms) / 1000
        # An excerpt of many devices is often that of a few more, too.
        self._seen: dict[Length, tuple[dict[str, float], float, float]] = {}

    def standing(self, devices: int) -> Standing:
        """How that many devices fare, over all draws."""
        fleet = self._fleet
        length = length_for(fleet, self._service, devices)
        if length not in self._seen:
            self._seen[length] = self._watch(length)
        age_ms, drops, worst = self._seen[length]
        stable = fleet.policy == "newest" or self._load_of(fleet.fullest(devices)) < fleet.streams
        late = self._allowed.latency_ms
        return Standing(
            devices,
            100 * fleet.load(self._mean_ms) / (devices * fleet.streams),
            drops,
            worst,
            age_ms,
            stable,
            length.settles,
            stable
            and worst <= self._allowed.drops_percent
            and (late is None or (length.settles and age_ms[self._allowed.percentile] <= late)),
        )

    def _watch(self, length: Length) -> tuple[dict[str, float], float, float]:
        """Percentiles of the ages in ms; drops of all cameras and of the worst, in percent."""
        fleet = self._fleet
        ages, (came, gone) = [], np.zeros((2, length.cameras))
        first, last = (share * length.seconds for share in COUNTED)
        for frames in frames_of(fleet, length, self._service):
            served = serve(frames, length.devices, fleet.streams, fleet.policy, self._batch)
            counts = (frames.arrival_s >= first) & (frames.arrival_s < last)
            dropped = served.dropped
            ages.append(served.age_s[counts & ~dropped])
            came += np.bincount(frames.camera[counts], minlength=length.cameras)
            gone += np.bincount(frames.camera[counts & dropped], minlength=length.cameras)
        age = 1000 * np.concatenate(ages)
        shown = {f"p{q}": float(np.percentile(age, q)) for q in (50, 90, 99)}
        return shown, float(100 * gone.sum() / came.sum()), float(100 * (gone / came).max())

    def least(self) -> int:
        """The fewest devices that have the time: no simulation can do with less."""
        fleet = self._fleet
        if fleet.policy == "newest":
            kept = 1 - self._allowed.drops_percent / 100
            return max(1, math.ceil(fleet.load(self._mean_ms) * kept / fleet.streams - 1e-9))
        most = math.ceil(fleet.streams / self._load_of(1)) - 1  # cameras of a device: load below 1
        return fleet.cameras + 1 if most < 1 else math.ceil(fleet.cameras / most)

    def _load_of(self, cameras: int) -> float:
        return self._fleet.load(self._mean_ms, cameras)


def devices_for(
    fleet: Fleet, ms: tuple[float, ...], allowed: Allowed, on_try: OnTry = lambda _: None
) -> Answer:
    """The smallest number of devices that keeps what is allowed.

    More devices are taken to be no worse, so steps are doubled, then halved.
    """
    why = _out_of_reach(fleet, ms, allowed)
    trial = Trial(fleet, ms, allowed)
    high = trial.least()
    if why is None and high > fleet.cameras:
        why = "a device has no time for all frames of one camera"
    if why is not None:
        return Answer(None, why)
    answer = Answer(None, None)

    def within(devices: int) -> bool:
        if devices not in answer.tried:
            answer.tried[devices] = trial.standing(devices)
            on_try(len(answer.tried))
        return answer.tried[devices].within

    low, step = high - 1, 1
    while not within(high):
        if high == fleet.cameras:
            settled = answer.tried[high].settled
            answer.why_none = "a device for each camera is not enough" + (
                "" if settled else ": their queues do not settle within the longest simulation"
            )
            return answer
        low, high, step = high, min(fleet.cameras, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    answer.devices = high
    for beside in _AROUND:
        if 1 <= high + beside <= fleet.cameras:
            within(high + beside)
    return answer


def _out_of_reach(fleet: Fleet, ms: tuple[float, ...], allowed: Allowed) -> str | None:
    """Why no number of devices helps: an idle device is already too slow."""
    if allowed.latency_ms is None:
        return None
    alone = float(np.percentile(ms, float(allowed.percentile[1:])))
    if alone <= allowed.latency_ms:
        return None
    return f"one frame takes {alone:.3g} ms ({allowed.percentile}), above {allowed.latency_ms:g} ms"


def closed_form(fleet: Fleet, times: Times, devices: int) -> dict[str, Any]:
    """What formulas say of the fullest device, beside the simulation.

    ``wait_mean_ms`` and ``wait_p99_ms`` are of a queue: by Allen and Cunneen with Poisson arrivals
    (an upper guess for cameras), and by N*D/D/1 with every frame taking the mean (one stream
    without jitter only). None where there is no such figure (with batches), or it has no end.
    """
    cameras, mean_s = fleet.fullest(devices), times.mean / 1000
    busy = cameras * fleet.fps * fleet.least_ms(times.mean) / 1000 / fleet.streams
    wait = mean_wait(cameras * fleet.fps, mean_s, service_scv=times.scv, servers=fleet.streams)
    exact = math.inf
    if fleet.batch > 1:
        wait = math.inf
    elif fleet.streams == 1 and not fleet.jitter_ms:
        exact = periodic_wait_percentile(cameras, 1 / fleet.fps, mean_s, 99)
    return {
        "cameras_of_fullest": cameras,
        "busy_percent_of_fullest": round(100 * busy, 3),
        "wait_mean_ms": round(1000 * wait, 4) if wait < math.inf else None,
        "wait_p99_ms": round(1000 * exact, 4) if exact < math.inf else None,
    }
