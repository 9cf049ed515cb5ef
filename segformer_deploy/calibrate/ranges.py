"""Ranges: what a calibration found, as a JSON file that says what it is good for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy import __version__
from segformer_deploy.errors import InputError
from segformer_deploy.files import write_text

RANGES_FORMAT = 1
SUFFIX = ".ranges.json"
_AGAIN = "calibrate again: segdeploy calibrate"


@dataclass(frozen=True)
class Ranges:
    """The ranges of a graph's values on a set of frames.

    Attributes:
        graph_sha256: of the FP32 ONNX file.
        method, percentile: how a range was taken from what was seen.
        network: the size HxW at which the network saw the frames (of the first frame).
        origin: where the frames came from.
        frames: the SHA-256 of each, as it entered the network, in order.
        equalise: whether factors were looked for.
        equalisation: norm -> factor of each channel; see `graph.equalise`.
        ranges: value -> the magnitude that its grid holds, after equalisation.
        largest: value -> the largest magnitude seen.
        warnings: what was wrong with the frames.
        tool: which version found all this.
    """

    graph_sha256: str
    method: str
    percentile: float
    network: str
    origin: str
    frames: tuple[str, ...]
    equalisation: Mapping[str, tuple[float, ...]]
    ranges: Mapping[str, float]
    largest: Mapping[str, float]
    equalise: bool = True
    warnings: tuple[str, ...] = ()
    tool: str = field(default=f"segdeploy {__version__}")

    def scales(self) -> dict[str, npt.NDArray[np.float32]]:
        """`equalisation` as arrays."""
        return {name: np.array(s, np.float32) for name, s in self.equalisation.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": RANGES_FORMAT,
            "tool": self.tool,
            "graph_sha256": self.graph_sha256,
            "method": self.method,
            "percentile": self.percentile,
            "equalise": self.equalise,
            "network": self.network,
            "origin": self.origin,
            "warnings": list(self.warnings),
            "ranges": dict(self.ranges),
            "largest": dict(self.largest),
            "equalisation": {name: list(s) for name, s in self.equalisation.items()},
            "frames": list(self.frames),
        }

    def write(self, path: Path) -> None:
        """Write the JSON file, aside and renamed; OutputError where that fails."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def misfit(
        self,
        graph_sha256: str,
        *,
        frames: tuple[str, ...] | None = None,
        method: str | None = None,
        percentile: float | None = None,
    ) -> str | None:
        """Why these ranges are not those of that graph, those frames and that method."""
        if self.tool != f"segdeploy {__version__}":
            return f"they were made by {self.tool}, this is segdeploy {__version__}"
        if self.graph_sha256 != graph_sha256:
            return (
                f"they belong to another graph (SHA-256 {self.graph_sha256[:12]}…, "
                f"this one has {graph_sha256[:12]}…)"
            )
        if method is not None and method != self.method:
            return f"they were found by {self.method}, asked for is {method}"
        if self.method == "percentile" and percentile not in (None, self.percentile):
            return f"they hold {self.percentile} % of the values, asked for is {percentile} %"
        if frames is not None and frames != self.frames:
            return f"they come from other frames ({len(self.frames)} from {self.origin})"
        return None


def read_ranges(path: Path) -> Ranges:
    """Read what `Ranges.write` wrote; InputError says what is wrong with the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{path} cannot be read: {reason}", "a ranges file", _AGAIN) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})", "a ranges file", _AGAIN) from error
    if not isinstance(data, dict) or data.get("format") != RANGES_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path} has format {found!r}", f"format {RANGES_FORMAT}", _AGAIN)
    try:
        return _ranges_from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path} does not read ({type(error).__name__}: {error})",
            "the fields that segdeploy calibrate writes",
            _AGAIN,
        ) from error


def _ranges_from_dict(data: dict[str, Any]) -> Ranges:
    return Ranges(
        graph_sha256=str(data["graph_sha256"]),
        method=str(data["method"]),
        percentile=float(data["percentile"]),
        network=str(data["network"]),
        origin=str(data["origin"]),
        frames=_texts(data["frames"]),
        equalisation={
            str(name): tuple(float(s) for s in scales)
            for name, scales in data["equalisation"].items()
        },
        ranges=_positive(data["ranges"]),
        largest=_positive(data["largest"]),
        equalise=_flag(data["equalise"]),
        warnings=_texts(data["warnings"]),
        tool=str(data["tool"]),
    )


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} instead of true or false")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"a {type(values).__name__} instead of a list")
    return tuple(str(text) for text in values)


def _positive(values: dict[str, Any]) -> dict[str, float]:
    found = {str(name): float(value) for name, value in values.items()}
    for name, value in found.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"the range of '{name}' is {value}")
    return found
