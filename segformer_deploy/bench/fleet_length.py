"""How long cameras are watched: until a queue that began idle has forgotten that it did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segformer_deploy.bench.queueing import COUNTED, Floats, Frames, camera_frames

if TYPE_CHECKING:
    from segformer_deploy.bench.fleet import Fleet

_LEAST_SECONDS, _LEAST_FRAMES = 10.0, 50
_FRAMES_IN_ALL, _MOST_DRAWS = 120_000, 24
MOST_FRAMES = 2_000_000
"""Of a draw. Above it, ten seconds are made shorter, and of queues fewer devices are watched."""
MOST_QUEUED = 10_000_000
"""Of all draws, where a queue needs longer ones."""
_RELAXATIONS = 25
"""Of a draw: five of them go by before the first frame that counts."""
_QUEUES = 40
"""So many devices are seen at least, in one draw or in several: each counts 17 relaxations,
so that a p99 is within some 7 percent (standard deviation, at a load of 95 percent)."""
_EACH_SAMPLE = 30
"""How often each measured sample comes, so that a rare slow frame is not missed."""
SEED = 0


@dataclass(frozen=True)
class Length:
    """What is watched.

    Attributes:
        seconds: of a draw; doubled `rung` times.
        cameras, devices: all, or where those are too many an excerpt of a queue's.
        settles: whether that is long enough.
    """

    seconds: float
    draws: int
    cameras: int
    devices: int
    rung: int = 0
    settles: bool = True


def length_for(fleet: Fleet, service_s: Floats, devices: int) -> Length:
    """How long so many devices are watched.

    A device that takes the newest frame never has more than one of a camera to catch up with: ten
    seconds, or fifty frames, do. A queue near saturation takes long to fill: there the time is
    doubled until it is `_RELAXATIONS` relaxation times of the fullest device. Where `_QUEUES` of
    those give more than `MOST_QUEUED` frames, as where the queue grows for ever, the length is the
    short one and does not settle: the ages seen are too young.
    """
    mean, rate = float(service_s.mean()), fleet.cameras * fleet.fps
    short = max(min(_LEAST_SECONDS, MOST_FRAMES / rate), _LEAST_FRAMES * max(1 / fleet.fps, mean))
    draws = _draws(rate * short)
    relaxation = relaxation_s(fleet, service_s, devices) if fleet.policy == "queue" else 0.0
    counted = rate * draws * (COUNTED[1] - COUNTED[0])
    wanted = max(_RELAXATIONS * relaxation, _EACH_SAMPLE * len(service_s) / counted)
    if wanted <= short or fleet.policy == "newest":
        return Length(short, draws, fleet.cameras, devices)
    rung = math.ceil(math.log2(wanted / short)) if wanted < math.inf else 0
    seconds = short * 2**rung
    one = fleet.fullest(devices) * fleet.fps * seconds
    if wanted == math.inf or one * _QUEUES > MOST_QUEUED:
        return Length(short, draws, fleet.cameras, devices, settles=False)
    watched = min(devices, int(MOST_FRAMES / one))
    cameras = _excerpt(fleet.cameras, devices, watched)
    draws = max(math.ceil(_QUEUES / watched), _draws(cameras * fleet.fps * seconds))
    return Length(seconds, draws, cameras, watched, rung)


def _excerpt(cameras: int, devices: int, watched: int) -> int:
    """Cameras of `watched` of the devices, which share nothing in a queue.

    As many of these have a camera more than the others as of all, rounded up.
    """
    each, fuller = divmod(cameras, devices)
    return each * watched + math.ceil(fuller * watched / devices)


def frames_of(fleet: Fleet, length: Length, service_s: Floats) -> Iterator[Frames]:
    """The draws, one by one; the same for every number of devices that is watched in this way."""
    # A short look's frames do not depend on how often others were doubled.
    rng = np.random.default_rng([SEED, length.rung] if length.rung else SEED)
    period_s, jitter_s = 1 / fleet.fps, fleet.jitter_ms / 1000
    for _ in range(length.draws):
        yield camera_frames(length.cameras, period_s, length.seconds, service_s, rng, jitter_s)


def _draws(frames: float) -> int:
    """Many devices show many phases at once; of few, more draws do."""
    return min(_MOST_DRAWS, max(1, int(_FRAMES_IN_ALL / frames)))


def relaxation_s(fleet: Fleet, service_s: Floats, devices: int) -> float:
    """Seconds in which the fullest device's queue forgets how it began; inf where it grows.

        2 V / m^2

    of the Brownian motion that a queue near saturation is like: V the variance of the work that
    comes in a second, m the seconds of work that a device could do beside it. Source: Abate and
    Whitt, "Transient behavior of regulated Brownian motion, I", Advances in Applied Probability
    19, 1987. Cameras are periodic, so that only the frames' times add to V: with constant times
    a queue repeats itself after one period. Not less than it takes to make up for the longest
    frame, and for the latest.
    """
    mean, cameras = float(service_s.mean()), fleet.fullest(devices)
    spare = fleet.streams - fleet.load(1000 * mean, cameras)
    if spare <= 0:
        return math.inf
    variance = cameras * fleet.fps / fleet.batch * float(service_s.var())
    longest = max(float(service_s.max()) - mean, fleet.jitter_ms / 1000)
    return max(2 * variance / spare**2, longest / min(1.0, spare))
