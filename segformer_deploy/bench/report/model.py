"""What was read from a folder of results: cases, machines, accuracies. No drawing here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segformer_deploy.bench.report.fields import pixels_of

PRECISIONS = ("fp32", "fp16", "int8")
"""From the widest to the narrowest; the order in which they are shown."""


@dataclass(frozen=True)
class Machine:
    """Where figures come from.

    Attributes:
        name: the processor or board.
        facts: label -> text, in the order in which they are shown.
        key: what makes two machines the same, the power mode last; versions of libraries are not
            part of it.
        versions: library -> version.
        peak_gmac_s: the most 10^9 multiply-accumulates a second that it can do, where known.
        peak_gb_s: the most 10^9 bytes a second that its memory gives, where known.
        peaks_from: where these two come from, in words.
        said: False where the file tells nothing of its machine.
        load: the load average before the run.
        power_mode: what holds its clocks, such as ``15W (0)``; "" where there is none.
    """

    name: str
    key: tuple[Any, ...]
    facts: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    peak_gmac_s: float | None = None
    peak_gb_s: float | None = None
    peaks_from: str = ""
    said: bool = True
    power_mode: str = ""
    load: float | None = None


@dataclass(frozen=True)
class Limit:
    """A memory limit under which a case ran.

    `enforced`: the system held the process to it (else it was only looked at afterwards);
    `survived`: the case ended well under it, None where that is not known.
    """

    mib: float
    enforced: bool
    survived: bool | None

    @property
    def text(self) -> str:
        how = "enforced" if self.enforced else "not enforced"
        end = {True: "kept", False: "broken", None: "outcome unknown"}[self.survived]
        return f"{self.mib:.0f} MiB {end} ({how})"


@dataclass(frozen=True)
class Accuracy:
    """One `segdeploy eval`: percent.

    `task` tells which scores may be compared: where the images come from, where that is said,
    their number, and the classes' names.
    """

    source: str
    engine: str
    precision: str
    miou: float
    pixel_accuracy: float | None
    mean_boundary_f: float | None
    images: int
    per_class: tuple[tuple[str, float | None], ...]
    notes: tuple[str, ...] = ()
    images_from: str = ""

    @property
    def task(self) -> tuple[Any, ...]:
        return (self.images_from, self.images, tuple(name for name, _ in self.per_class))


@dataclass(frozen=True)
class Case:
    """One engine at one size on one machine: measured, estimated, or failed.

    Attributes:
        source: the file, relative to the folder that was read.
        run: cases with the same run were measured together; ratios stay within one.
        p10, p50, p90, p99: milliseconds from a frame in memory to its class map.
        samples: how many runs the percentiles come from; 0 where the file holds none.
        stages: stage -> median, in ms.
        peak_mib: peak resident memory of the process in MiB; of an estimate, what it foresees.
        video: the source whose frames were segmented, "" for one frame in memory. `stages` then
            go from capture to drawn picture; the percentiles are of the same part as ever.
        drawn: whether the overlay of a source's frames was drawn.
        asked: the file's `case`: what `bench` was asked for, by the names of its options.
        weights: "random", "trained", or "" where the file does not say.
        error: why there is no figure; empty where there is one.
    """

    source: str
    run: str
    machine: Machine
    engine: str
    variant: str
    size: str
    frame: str
    precision: str
    backend: str
    threads: int | None
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    samples: int = 0
    warmup: int | None = None
    first_ms: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    peak_mib: float | None = None
    limit: Limit | None = None
    joules: float | None = None
    weights: str = ""
    classes: int | None = None
    estimated: bool = False
    basis: str = ""
    error: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    device: str = ""
    video: str = ""
    drawn: bool = True
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arena(self) -> bool:
        """Whether freed memory was kept; so where the file does not say."""
        return self.asked.get("arena") is not False

    @property
    def timed(self) -> bool:
        """Whether each stage was timed on the GPU, which goes without CUDA graphs."""
        return self.asked.get("timed") is True

    @property
    def provider(self) -> str:
        """ONNX Runtime's, where it is not the usual one."""
        found = self.asked.get("provider")
        return found if isinstance(found, str) and found != "cpu" else ""

    @property
    def library(self) -> str:
        """The backend without its version: the `native` of `native 0.1.0 (CPU, avx2)`."""
        return self.backend.split()[0] if self.backend else ""

    @property
    def random(self) -> bool:
        return self.weights == "random"

    @property
    def miou(self) -> float | None:
        """Percent; None without a score, and of random weights, where a score means nothing."""
        return None if self.accuracy is None or self.random else self.accuracy.miou

    @property
    def order(self) -> tuple[Any, ...]:
        """Variants, then sizes by pixels, then from the widest precision to the narrowest."""
        rank = PRECISIONS.index(self.precision) if self.precision in PRECISIONS else 9
        device = self.machine.name if self.estimated else ""
        return (
            device,
            self.variant,
            pixels_of(self.size),
            self.estimated,
            self.library,
            rank,
            self.threads or 0,
        )


@dataclass(frozen=True)
class Other:
    """A file of the repository's own benchmarks: its kind and its content."""

    source: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """All that a folder held.

    `unread` names each file that was left out, with the reason.
    """

    folder: str
    files: int
    cases: tuple[Case, ...] = ()
    accuracies: tuple[Accuracy, ...] = ()
    others: tuple[Other, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    @property
    def measured(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.estimated and not case.error)


@dataclass(frozen=True)
class Group:
    """The cases of one machine, in the order in which they are shown."""

    machine: Machine
    cases: tuple[Case, ...]

    @property
    def estimated(self) -> bool:
        """Whether nothing here was measured."""
        return all(case.estimated for case in self.cases)

    @property
    def one_machine(self) -> bool:
        return len({case.machine.key for case in self.cases}) == 1

    @property
    def timed(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.p50 is not None)


def groups_from_cases(cases: tuple[Case, ...]) -> tuple[Group, ...]:
    """One group per machine, in the order in which machines first appear; estimates come last.

    Estimates for several devices make one group: each is a row of its own, and none was measured.
    """
    found: dict[tuple[Any, ...], list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.estimated):
        key = ("estimates",) if case.estimated else case.machine.key
        found.setdefault(key, []).append(case)
    return tuple(
        Group(members[0].machine, tuple(sorted(members, key=lambda case: case.order)))
        for members in found.values()
    )
