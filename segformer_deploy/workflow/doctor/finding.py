"""A finding: what is the case and what to do, in two plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from segformer_deploy.workflow.doctor.machine import Machine

Level = Literal["fault", "slow", "note"]
LEVELS: tuple[Level, ...] = ("fault", "slow", "note")
"""Worst first."""


@dataclass(frozen=True)
class Finding:
    """One sentence that says what is the case, and one that says what to do.

    Attributes:
        level: ``fault``: something does not work; ``slow``: it works slower than it could;
            ``note``: worth knowing.
    """

    level: Level
    found: str
    next: str

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


Rule = Callable[[Machine], Iterator[Finding]]
"""Speaks only of what is known: a fact that the machine did not tell is no finding."""


def seen_from_environment(machine: Machine) -> str:
    """What to add to the advice to install a system package; nothing where it would be seen."""
    if machine.system.system_packages:
        return ""
    return (
        ", and make the virtual environment with --system-site-packages: this one does not see "
        "the system's packages"
    )
