"""What the manifest of a TensorRT folder adds: where its plan runs, sizes, device memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segformer_deploy.engine.size_range import SizeRange, size_range_from_dict

NOT_VERIFIED = "not verified on a device"


@dataclass(frozen=True)
class PlanFacts:
    """Attributes:
    runs_on: compute capabilities: ``8.7`` is that one, ``8.0+`` that one and every later.
    system: operating system and processor it was built for: ``linux x86_64``.
    version_compatible: later releases of the library's major version load it too.
    profiles: the sizes that each of the plan's profiles takes.
    activation_memory_bytes, weights_memory_bytes: by the builder's own count.
    peak_device_bytes: activations plus the bindings alive at the worst moment of a run, at the
        largest sizes; weights and the library's own memory come on top.
    seconds: what the library's builder took, of the build.
    layers: how many the finished plan has, where the library tells; they lie in layers.json.
    bypassed: products whose Q/DQ could not be built and was taken out.
    options: what else was asked for and is not the default, by `build-engine`'s names.
    """

    runs_on: tuple[str, ...]
    system: str
    version_compatible: bool
    profiles: tuple[SizeRange, ...]
    activation_memory_bytes: int
    weights_memory_bytes: int
    peak_device_bytes: int
    bypassed: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    layers: int = 0
    seconds: float = 0.0

    def runs_on_capability(self, sm: str) -> bool:
        """Whether a GPU of compute capability `sm` (``8.7``) is one of those built for."""
        return any(
            number(sm) >= number(one[:-1]) if one.endswith("+") else sm == one
            for one in self.runs_on
        )

    def memory(self) -> dict[str, int]:
        return {
            "activation_memory_bytes": self.activation_memory_bytes,
            "weights_memory_bytes": self.weights_memory_bytes,
            "peak_device_bytes": self.peak_device_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs_on": list(self.runs_on),
            "system": self.system,
            "version_compatible": self.version_compatible,
            "profiles": [profile.to_dict() for profile in self.profiles],
            **self.memory(),
            "bypassed": list(self.bypassed),
            "options": dict(self.options),
            "layers": self.layers,
            "seconds": self.seconds,
        }


def plan_facts_from_dict(data: Any) -> PlanFacts:
    """Read what `to_dict` wrote; raises KeyError, TypeError or ValueError otherwise."""
    if not data["runs_on"] or not data["profiles"]:
        raise ValueError("a plan for no GPU or without profiles")
    return PlanFacts(
        runs_on=tuple(_capability(text) for text in data["runs_on"]),
        system=str(data["system"]),
        version_compatible=bool(data["version_compatible"]),
        profiles=tuple(size_range_from_dict(one) for one in data["profiles"]),
        activation_memory_bytes=int(data["activation_memory_bytes"]),
        weights_memory_bytes=int(data["weights_memory_bytes"]),
        peak_device_bytes=int(data["peak_device_bytes"]),
        bypassed=tuple(str(name) for name in data["bypassed"]),
        options=_checked_options(data["options"]),
        layers=int(data["layers"]),
        seconds=float(data["seconds"]),
    )


_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("hardware_compatible", "version_compatible", "refit", "tf32"), bool),
    **dict.fromkeys(("aux_streams", "workspace", "level"), int),
}
"""What a plan is built again with: names as on the command line, and their kinds."""


def _checked_options(data: Any) -> dict[str, Any]:
    options: dict[str, Any] = dict(data)
    for name, value in options.items():
        kind = _OPTIONS.get(name)
        if kind is None or kind is not type(value) or value < kind():
            raise ValueError(f"the option {name!r} as {value!r}")
    return options


def number(sm: str) -> tuple[int, int]:
    """``12.1`` -> (12, 1); ValueError where it is no compute capability."""
    major, minor = sm.split(".")
    return int(major), int(minor)


def _capability(text: Any) -> str:
    number(str(text).removesuffix("+"))
    return str(text)
