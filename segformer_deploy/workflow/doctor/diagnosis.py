"""One call from a machine to what is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.workflow.doctor.finding import Finding
from segformer_deploy.workflow.doctor.machine import Machine, look
from segformer_deploy.workflow.doctor.rules import findings_of


@dataclass(frozen=True)
class Diagnosis:
    """The machine and what is to be said of it, worst first."""

    machine: Machine
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        findings = [finding.to_dict() for finding in self.findings]
        return {**self.machine.to_dict(), "findings": findings}


def diagnose(build: Path) -> Diagnosis:
    """Look at this machine and at the engine folders under `build`."""
    machine = look(build)
    return Diagnosis(machine, findings_of(machine))
