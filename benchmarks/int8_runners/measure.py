"""One INT8 file against labels and against FP32's class maps: each frame segmented once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segformer_deploy.bench import ClassMap, Frame, OnImage, Segment
from segformer_deploy.bench.accuracy import EvalReport, evaluate
from segformer_deploy.bench.labels import Pairing
from segformer_deploy.engine.ort import OrtEngine, OrtOptions, import_onnxruntime
from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Engine,
    Shape,
    TensorInfo,
    checked_image,
    network_output_shapes,
)
from segformer_deploy.errors import InputError, OnnxFileError, RunError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import ModelSpec


@dataclass
class Against:
    """A segmenter that is compared with the class maps of another on the way.

    Attributes:
        segment: frame to class map.
        wanted: the other's class maps in the order of the frames; empty to collect only.
        keep: whether to collect this one's in `found`.
        equal, pixels: of each frame, how many agree and how many there are.
    """

    segment: Segment
    wanted: Sequence[ClassMap] = ()
    keep: bool = False
    found: list[ClassMap] = field(default_factory=list)
    equal: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)

    def __call__(self, frame: Frame, /) -> ClassMap:
        class_map = self.segment(frame)
        if self.keep:
            self.found.append(class_map)
        if self.wanted:
            other = self.wanted[len(self.equal)]
            self.equal.append(int(np.count_nonzero(class_map == other)))
            self.pixels.append(class_map.size)
        return class_map

    @property
    def agreement(self) -> float | None:
        """Share of all frames' pixels, in percent; None where nothing was compared."""
        return 100 * sum(self.equal) / sum(self.pixels) if self.pixels else None

    @property
    def worst(self) -> float | None:
        """The same of the frame that agrees least."""
        shares = [equal / pixels for equal, pixels in zip(self.equal, self.pixels, strict=True)]
        return 100 * min(shares) if shares else None


@dataclass(frozen=True)
class Score:
    """How right a file's class maps are, and how far they are FP32's (percent)."""

    report: EvalReport
    agreement: float | None
    worst_frame: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is the same for all files (frames, void, notes) is left out."""
        common = ("images", "tolerance", "tolerance_px", "void_share", "resized_labels", "notes")
        own = {name: value for name, value in self.report.to_dict().items() if name not in common}
        return {**own, "agreement": self.agreement, "worst_frame_agreement": self.worst_frame}


def score(
    engine: Engine,
    spec: ModelSpec,
    pairs: Pairing,
    *,
    ignore: int | None,
    threads: int,
    wanted: Sequence[ClassMap] = (),
    keep: bool = False,
    on_image: OnImage | None = None,
) -> tuple[Score, list[ClassMap]]:
    """Evaluate an engine; its class maps too where they are to be kept.

    `wanted` are the class maps to agree with, one per pair, at frame resolution.
    """
    with Segmenter(engine, spec=spec, threads=threads) as segment:
        against = Against(segment, wanted, keep)
        report = evaluate(against, spec, pairs, ignore=ignore, on_image=on_image)
    return Score(report, against.agreement, against.worst), against.found


def engine_of(path: Path, threads: int, *, as_stated: bool = False) -> Engine:
    """ONNX Runtime on the CPU with its defaults; `as_stated` with Q and DQ one by one in FP32."""
    return StatedEngine(path, threads) if as_stated else OrtEngine(path, OrtOptions("cpu", threads))


@contextmanager
def opened(
    path: Path, spec: ModelSpec, threads: int, *, as_stated: bool = False
) -> Iterator[Engine]:
    """`engine_of`, closed at the end; InputError where its logits are not of the spec's classes."""
    with closing(engine_of(path, threads, as_stated=as_stated)) as engine:
        shapes = {output.name: output.shape for output in engine.outputs}
        if list(shapes) != ["logits"] or shapes["logits"][1] not in (None, spec.classes):
            raise InputError(
                f"{path} gives {', '.join(f'{name} {shape}' for name, shape in shapes.items())}",
                f"logits of {spec.classes} classes, like the FP32 model",
                "give INT8 files that were made from that model",
            )
        yield engine


class StatedEngine:
    """The numbers that a Q/DQ file states: each Q and DQ computed by itself, products in FP32.

    Without this ONNX Runtime fuses Q, DQ and what lies between into integer kernels, and on
    processors without VNNI those add pairs of 8-bit products in 16 bits, which saturates.
    """

    def __init__(self, path: Path, threads: int) -> None:
        ort = import_onnxruntime()
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = ort.InferenceSession(
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes lie straight below Exception
            raise OnnxFileError(
                f"{path} does not load with session.disable_quant_qdq: {str(error)[:300]}",
                "a Q/DQ file",
                "leave --reference out",
            ) from error
        self.name = f"onnxruntime {ort.__version__}, Q and DQ one by one"
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> StatedSession:
        return StatedSession(self._session)

    def close(self) -> None:
        self._session = None


class StatedSession:
    """`Session` of segformer_deploy."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, arrays: Arrays) -> dict[str, Array]:
        if self._session is None:
            raise RunError("a closed session was run", "an open one")
        (logits,) = self._session.run(["logits"], {"image": checked_image(arrays)})
        return {"logits": logits}

    def close(self) -> None:
        self._session = None


def _info(node: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return TensorInfo(node.name, node.type, shape)
