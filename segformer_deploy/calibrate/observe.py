"""Looking at values inside a graph while it runs, a few at a time so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.errors import VerificationError
from segformer_deploy.graph.macs import value_bytes
from segformer_deploy.spec import FrameSize

Floats = npt.NDArray[np.float32]

BUDGET_BYTES = 320 << 20
"""Of what one run hands out. Each further group costs a run of the graph up to there."""


class Observer:
    """Runs an FP32 graph on frames and gives the values `names` inside it.

    Args:
        size: of the frames that it will see, from which the groups are sized.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        names: Iterable[str],
        size: FrameSize,
        budget: int = BUDGET_BYTES,
    ) -> None:
        sizes = value_bytes(model, size)
        self.groups = _groups(list(names), sizes, budget)
        self._sessions = [_session(_with_outputs(model, group)) for group in self.groups]

    def __call__(self, image: npt.NDArray[np.uint8]) -> Iterator[tuple[str, Floats]]:
        """(name, value) for a frame uint8 `[h, w, 3]`, RGB; VerificationError at NaN."""
        for session, group in zip(self._sessions, self.groups, strict=True):
            values = session.run(group, {"image": image[None]})
            for name, value in zip(group, values, strict=True):
                if not _finite(value):
                    raise VerificationError(
                        f"'{name}' holds NaN or infinite values",
                        "finite numbers in FP32",
                        "check the checkpoint: its training may have diverged",
                    )
                yield name, value


def _finite(value: Floats) -> bool:
    # A sum is one pass without a copy; only where it is not finite need all be looked at.
    with np.errstate(invalid="ignore", over="ignore"):
        total = value.sum()
    return bool(np.isfinite(total) or np.isfinite(value).all())


def _groups(names: list[str], sizes: dict[str, int], budget: int) -> list[list[str]]:
    groups: list[list[str]] = []
    room = -1
    for name in names:
        if not groups or sizes[name] > room:
            groups.append([])
            room = budget
        groups[-1].append(name)
        room -= sizes[name]
    return groups


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """`model` with `names` as its outputs; ONNX Runtime leaves out what they do not need."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    result.graph.output.extend(
        # Without a type: ONNX Runtime infers it.
        helper.make_empty_tensor_value_info(name)
        for name in names
    )
    return result


def _session(model: onnx.ModelProto) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    # An arena would keep the largest of each group's buffers for good.
    options.enable_cpu_mem_arena = False
    # Q and DQ one by one, so that every value in between is there to be seen.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
