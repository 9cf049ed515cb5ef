"""segdeploy fit --cameras: its options, what goes with what, and the question that they ask."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.bench.fleet import Allowed, Fleet

_FPS, _DROPS = 10.0, 1.0
_UNITS = {"ms": 1.0, "s": 1000.0}

Cameras = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="How many devices do so many cameras need?"),
]
Fps = Annotated[float | None, typer.Option(help="Frames per second of each camera, 10.")]
DeviceName = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="One that is not here: estimated.")
]
Measured = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A result of bench --json, of any machine.")
]
Variant = Annotated[str | None, typer.Option(help="With --device: b0 to b5; b0.")]
Size = Annotated[
    str | None, typer.Option(metavar="HxW", help="With --cameras: the network's size.")
]
Precision = Annotated[
    str | None, typer.Option(help="With --device: fp32, fp16 or int8; the device's usual one.")
]
Streams = Annotated[
    int | None, typer.Option(min=1, max=64, help="Frames that a device works on at a time, 1.")
]
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy", help="newest (as run does, dropping the rest) or queue (every frame)."
    ),
]
MaxDrops = Annotated[
    float | None, typer.Option(metavar="PERCENT", help="Most frames dropped of any camera, 1.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch", min=2, max=256, help="Frames that a device takes together at most."),
]
BatchTime = Annotated[
    str | None,
    typer.Option(metavar="30ms", help="What so many frames together were measured to take."),
]
Jitter = Annotated[
    str | None, typer.Option(metavar="20ms", help="By how much a camera's frame may come late.")
]
Overhead = Annotated[
    str | None, typer.Option(metavar="2ms", help="A frame's work beside the measured or estimated.")
]


@dataclass(frozen=True)
class FleetWords:
    """The options of --cameras, as they were typed; None where they were not."""

    cameras: int | None
    fps: float | None
    device: str | None
    measured: Path | None
    variant: str | None
    size: str | None
    precision: str | None
    streams: int | None
    batch: int | None
    batch_time: str | None
    policy: str | None
    max_drops: float | None
    jitter: str | None
    overhead: str | None

    def asked(self) -> bool:
        """Whether the question is of cameras; InputError where an option is there without."""
        if self.cameras is not None:
            return True
        for name, value in vars(self).items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                plural = {"variant": "--variants", "size": "--sizes", "precision": "--precisions"}
                raise InputError(
                    f"{option} without --cameras",
                    f"{option} beside --cameras N",
                    f"to choose a network: {plural[name]}" if name in plural else "",
                )
        return False

    def refuse(self, **others: object) -> None:
        """InputError for an option that chooses a network, which --cameras does not."""
        for name, value in others.items():
            if value is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} with --cameras",
                    "one question: which network (fit), or how many devices for it (--cameras)",
                    "leave it out; segdeploy estimate says whether a network fits into a device"
                    if name == "memory"
                    else "leave it out, or ask in two commands",
                )


def question_of(
    words: FleetWords, latency_ms: float | None, percentile: str
) -> tuple[Fleet, Allowed]:
    """The cameras with what they are to be given; InputError where that makes no sense."""
    from segformer_deploy.bench.fleet import Allowed, Fleet
    from segformer_deploy.bench.queueing import POLICIES

    fps = _FPS if words.fps is None else words.fps
    if not 0.01 <= fps <= 1000:
        raise InputError(f"--fps {fps:g}", "frames per second from 0.01 to 1000")
    drops = _DROPS if words.max_drops is None else words.max_drops
    if not 0 <= drops < 100:
        raise InputError(f"--max-drops {drops:g}", "a percentage from 0 to below 100")
    chosen: Any = words.policy or "newest"
    if chosen not in POLICIES:
        raise InputError(f"--policy {chosen}", " or ".join(POLICIES))
    if chosen == "queue" and words.max_drops is not None:
        raise InputError("--max-drops with --policy queue", "a queue, which drops nothing")
    if (words.batch is None) != (words.batch_time is None):
        raise InputError(
            "--batch or --batch-time by itself", "both", "--batch 8 --batch-time 30ms, as measured"
        )
    if words.batch and words.device:
        raise InputError(
            "--batch with --device",
            "a measured time",
            "estimates are of one frame: --measured FILE",
        )
    assert words.cameras is not None
    fleet = Fleet(
        words.cameras,
        fps,
        chosen,
        words.streams or 1,
        milliseconds_or_none(words.jitter) or 0.0,
        words.batch or 1,
        milliseconds_or_none(words.batch_time),
    )
    return fleet, Allowed(latency_ms, percentile, drops)


def milliseconds_from_text(text: str) -> float:
    """``200ms``, ``0.2s`` or plain milliseconds; InputError otherwise."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s)?\s*", text)
    value = float(found[1]) * _UNITS[found[2] or "ms"] if found else 0.0
    if not 0 < value < math.inf:
        raise InputError(f"a time of '{text}'", "a time such as 200ms or 0.2s")
    return value


def milliseconds_or_none(text: str | None) -> float | None:
    """The same; None where nothing was given."""
    return None if text is None else milliseconds_from_text(text)
