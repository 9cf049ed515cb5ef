"""Segmenters without a network: a function of the frame, with the attributes of the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import ModelSpec, default_palette


def spec_of(*names: str, **changes: Any) -> ModelSpec:
    return ModelSpec("custom", names, default_palette(len(names)), **changes)


class FakeSegmenter:
    """`answer(frame)` is the class map; `stages` the stage times it claims."""

    def __init__(
        self,
        answer: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]],
        spec: ModelSpec | None = None,
        stages: dict[str, float] | None = None,
    ) -> None:
        self.answer = answer
        self.spec = spec or spec_of("a", "b", "c")
        self.last_stages_ms = stages or {}
        self.calls = 0

    def __call__(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        self.calls += 1
        return self.answer(frame)
