"""INT8 graphs of small networks, and ONNX Runtime's answer to them, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.graph.insert_qdq import Recipe, Spelling, insert_qdq, quantised_values
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import SegformerConfig, random_segformer
from tests.model.tiny import TINY, random_frames, spec_for

SMALL = replace(TINY, head_channels=24)
"""Maps that are walked by vectors are a multiple of eight wide, as in B0 to B5."""
Frames = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Not its own INT8 kernels, which round otherwise: the pairs as they stand in the graph.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def ranges_of(model: onnx.ModelProto, frames: Iterable[Frames]) -> dict[str, float]:
    """The largest magnitude of each value that may be quantised, over all `frames`."""
    names = list(quantised_values(model))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = _session(watched)
    largest = np.zeros(len(names))
    for batch in frames:
        found = session.run(names, {"image": batch})
        largest = np.maximum(largest, [np.abs(one).max() for one in found])
    return dict(zip(names, largest.tolist(), strict=True))


def quantised(
    model: onnx.ModelProto,
    frames: Iterable[Frames],
    recipe: Recipe | None = None,
    spelling: Spelling = "unsigned",
) -> onnx.ModelProto:
    return insert_qdq(model, ranges_of(model, frames), recipe, spelling)


def onnxruntime_logits(path: Path, frames: Frames) -> Logits:
    answer = _session(onnx.load(path)).run(None, {"image": frames})[0]
    return np.asarray(answer, np.float32)


def logits_of(path: Path, frames: np.ndarray, threads: int = 2) -> Logits:
    engine = NativeEngine(path, threads)
    session = engine.session()
    answer = session.run({"image": frames})["logits"].copy()
    session.close()
    engine.close()
    return answer


def differences(path: Path, shapes: list[tuple[int, int, int]]) -> npt.NDArray[np.float64]:
    """Per shape, the largest difference from ONNX Runtime's logits, of the largest logit."""
    found = []
    for seed, shape in enumerate(shapes):
        frames = random_frames(*shape, seed=seed)
        ours, theirs = logits_of(path, frames), onnxruntime_logits(path, frames)
        assert ours.shape == theirs.shape
        found.append(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return np.array(found, np.float64)


def assert_same_but_for_edges(path: Path, shapes: list[tuple[int, int, int]]) -> None:
    """To float32's rounding; frames with a value on an edge by no more than some steps.

    How many frames have one depends on the processor, whose kernels round differently: up to half
    of them. Of wrong arithmetic, not one would agree.
    """
    found = differences(path, shapes)
    assert found.min() <= 2e-5, found
    assert found.max() <= 0.1, found


def float_model(config: SegformerConfig, seed: int) -> onnx.ModelProto:
    return onnx_from_model(random_segformer(config, seed), spec_for(config))


def int8_model(
    config: SegformerConfig = SMALL, seed: int = 1, recipe: Recipe | None = None, **options: str
) -> onnx.ModelProto:
    frames = [random_frames(1, 96, 128, seed=50)]
    return quantised(float_model(config, seed), frames, recipe, **options)  # type: ignore[arg-type]


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def change(model: onnx.ModelProto, name: str, new: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = np.array(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(np.array(new(values)), name))
