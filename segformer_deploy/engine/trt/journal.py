"""The library's log, gathered: errors for the error text, warnings explained, memory figures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

ERROR, WARNING, INFO = "error", "warning", "info"

_EXPLAINED: tuple[tuple[str, str], ...] = (
    (
        r"Converting conv (activation|weight) scales to fp32",
        "the compiler holds the Q/DQ scales of convolutions in FP32: the integers do not change",
    ),
    (
        r"layernorm.*(FP16|fp16|overflow)|layernorm nodes in FP16",
        "a LayerNormalization runs in FP16: it is one operation in this graph, and its values were "
        "looked at on frames when the precision was written",
    ),
    (
        r"different models of devices|portable across|device-specific",
        "the plan is for the kind of GPU that built it: build it again on another kind",
    ),
    (
        r"lazy loading is not enabled",
        "set CUDA_MODULE_LOADING=LAZY in the environment: less device memory, a quicker start",
    ),
    (
        r"insufficient for CUDA runtime version|no CUDA-capable device|initialization failure",
        "there is no usable GPU driver here: expected where a plan is built for another device",
    ),
    (
        r"(insufficient|(sufficient|enough)) workspace|workspace.*(too small|insufficient)",
        "a faster kernel would need more workspace: raise --workspace, or leave it out",
    ),
    (
        r"INT64 weights|cast down to INT32",
        "shapes are kept in 32 bits: no effect below two thousand million elements",
    ),
    (
        r"DLA",
        "DLA takes no free dimensions and few of these operations: the GPU runs them",
    ),
)
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+)")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+)")
# Two spellings: the builder's own, and at ProfilingVerbosity.DETAILED the inspector's.
_LAYERS = re.compile(r"^Layer\(([^)]*)\): (.*?), Tactic: .*?, (.*) -> (.*)$", re.MULTILINE)
_DETAILED = re.compile(
    r"^Name: (.*?), LayerType: (.*?), Inputs: (.*?)(?:, Constants: .*?)?, Outputs: (.*?), "
    r"TacticName: ",
    re.MULTILINE,
)
_TENSOR = re.compile(r"Name: (.*?), Dimensions: \[(.*?)\].*?Datatype: (\w+)")
# Each of several builders, runtimes and engines in a process has a logger of its own, and
# hears its own messages; those that belong to none go to the first one's.
_SECOND_LOGGER = "logger passed into createInfer"
_loggers: list[Any] = []
"""Kept: the library may hold on to a logger after the object that it was made for is gone."""


@dataclass
class Journal:
    """What a library said during one piece of work; quick enough for tens of thousands of lines."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    activation_memory_bytes: int | None = None
    weights_memory_bytes: int | None = None
    layers: list[dict[str, str]] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Take in one message."""
        if severity == ERROR:
            self.errors.append(text.strip())
        elif severity == WARNING:
            if _SECOND_LOGGER not in text:
                self.warnings.append(text.strip())
        elif "Total " in text:
            self._take_memory(text)
        elif text.startswith("Engine Layer Information"):
            self.layers = [
                {"kind": kind, "name": name, "inputs": inputs, "outputs": outputs}
                for kind, name, inputs, outputs in _LAYERS.findall(text)
            ]
        elif text.startswith("Layers:"):
            self.layers = [
                {"kind": kind, "name": name, "inputs": _tensors(ins), "outputs": _tensors(outs)}
                for name, kind, ins, outs in _DETAILED.findall(text)
            ]

    def _take_memory(self, text: str) -> None:
        # Stated once per profile: a context may need the largest.
        if found := _ACTIVATIONS.search(text):
            self.activation_memory_bytes = max(int(found[1]), self.activation_memory_bytes or 0)
        if found := _WEIGHTS.search(text):
            self.weights_memory_bytes = max(int(found[1]), self.weights_memory_bytes or 0)

    def forget_errors(self) -> list[str]:
        """The errors so far, which the next attempt starts without; and without its figures."""
        errors, self.errors = self.errors, []
        self.activation_memory_bytes = self.weights_memory_bytes = None
        return errors

    def notes(self) -> list[str]:
        """The warnings, each kind once, with what it means where that is known."""
        counted: Counter[str] = Counter()
        for text in self.warnings:
            counted[explained(text)] += 1
        return [
            text if count == 1 else f"{text} (said {count} times)"
            for text, count in counted.items()
        ]


def explained(warning: str) -> str:
    """A warning of the library's, with its meaning where we know it."""
    for pattern, meaning in _EXPLAINED:
        if re.search(pattern, warning, re.IGNORECASE):
            return meaning
    return "the library warns: " + " ".join(warning.split())[:300]


def logger_for(api: Any, journal: Journal) -> Any:
    """An `ILogger` of the library that writes into `journal`."""
    levels = api.ILogger.Severity
    names = {levels.INTERNAL_ERROR: ERROR, levels.ERROR: ERROR, levels.WARNING: WARNING}

    class _Log(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            # An exception would leave through C++: nothing here may raise.
            journal.add(names.get(severity, INFO), text)

    logger = _Log()
    _loggers.append(logger)
    return logger


def _tensors(text: str) -> str:
    """The inspector's list of tensors in the builder's spelling: ``name (Half[1,8,16,16])``."""
    return ", ".join(f"{name} ({kind}[{dims}])" for name, dims, kind in _TENSOR.findall(text))
