"""What a precision does to the masks: a graph beside the FP32 graph, on frames of its own.

The graph is run as it is written: Q and DQ one by one in FP32, FP16 really rounded. So the
verdict is on the numbers that the file states, not on the kernels of the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.bench.labels import Label, pair_files, read_label
from segformer_deploy.calibrate.frames import FrameSet
from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.errors import MediaError, VerificationError
from segformer_deploy.graph.metadata import checked_spec
from segformer_deploy.graph.round_fp16 import round_fp16
from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.video.images import read_image

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
OnStep = Callable[[int], None]

_KEEP_LOGITS_BYTES = 256 << 20
_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class JudgedFrame:
    """A frame as it enters the network, its own size, and its label where there is one."""

    name: str
    image: npt.NDArray[np.uint8]
    size: FrameSize
    label: Label | None


class JudgedFrames:
    """Frames to judge on, one in memory at a time, any number of times.

    Attributes:
        origin: where they come from, for people.
        labelled: whether each has a label.
    """

    def __init__(
        self, origin: str, labelled: bool, count: int, make: Callable[[], Iterator[JudgedFrame]]
    ) -> None:
        self.origin = origin
        self.labelled = labelled
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[JudgedFrame]:
        return self._make()


def judged_from_frames(frames: FrameSet, spec: ModelSpec) -> JudgedFrames:
    """Frames of a set; its labels count where they are in the model's classes."""
    first = next(iter(frames), None)
    labelled = first is not None and first.label is not None and _is_streets(spec)

    def make() -> Iterator[JudgedFrame]:
        for frame in frames:
            label = None
            if labelled and frame.label is not None:
                label = Label(frame.label.astype(np.int64), np.ones(frame.label.shape, np.bool_))
            size = FrameSize(*frame.picture.shape[:2])
            yield JudgedFrame(frame.name, frame.image, size, label)

    return JudgedFrames(frames.origin, labelled, len(frames), make)


def _is_streets(spec: ModelSpec) -> bool:
    from segformer_deploy.streets import CLASS_NAMES

    return spec.class_names == CLASS_NAMES


def judged_from_folders(
    images: Path, labels: Path, spec: ModelSpec, limit: int | None = None
) -> JudgedFrames:
    """Pictures with label pictures, as `segdeploy eval` pairs them; evenly spread to `limit`."""
    pairs = list(pair_files(images, labels))
    if limit is not None and len(pairs) > limit:
        pairs = [pairs[int(n)] for n in np.linspace(0, len(pairs) - 1, limit).round()]

    def make() -> Iterator[JudgedFrame]:
        for pair in pairs:
            picture = read_image(pair.image)
            size = FrameSize(*picture.shape[:2])
            label = read_label(pair.label, spec)
            if label.size != size:
                label = label.resized(size)
            yield JudgedFrame(pair.image.name, prepare(picture, spec.resize), size, label)

    return JudgedFrames(str(images), True, len(pairs), make)


@dataclass(frozen=True)
class Verdict:
    """A graph beside FP32 on the same frames.

    Attributes:
        agreement: share of pixels of the same class, in percent.
        miou, miou_fp32: against the labels, in percent; None without labels.
        logit_error: root mean square of the difference of the logits over that of FP32's.
    """

    agreement: float
    miou: float | None
    miou_fp32: float | None
    logit_error: float

    @property
    def drop(self) -> float | None:
        """mIoU lost, in points; negative where it rose."""
        if self.miou is None or self.miou_fp32 is None:
            return None
        return self.miou_fp32 - self.miou

    def to_dict(self) -> dict[str, Any]:
        return {
            "agreement": self.agreement,
            "miou": self.miou,
            "miou_fp32": self.miou_fp32,
            "drop": self.drop,
            "logit_error": self.logit_error,
        }


class Judge:
    """Holds graphs against one FP32 graph on the same frames.

    Args:
        model: the FP32 graph, with logits.
        frames: to judge on; not those that calibrated.
    """

    def __init__(
        self, model: onnx.ModelProto, frames: JudgedFrames, on_step: OnStep | None = None
    ) -> None:
        if not len(frames):
            raise MediaError("there are no frames to judge a precision on", "at least one")
        self.spec = checked_spec(model)
        self.frames = frames
        self._on_step = on_step
        self._run = as_written(model)
        self._maps: list[Array] = []
        self._logits: list[Floats] = []
        self.reference = self._reference()

    def _reference(self) -> ConfusionMatrix:
        confusion = ConfusionMatrix(self.spec.classes)
        kept = 0
        for number, frame in enumerate(self.frames, 1):
            logits = self._run(frame.image)
            kept += logits.nbytes
            if kept <= _KEEP_LOGITS_BYTES:
                self._logits.append(logits)
            self._maps.append(class_map_from_logits(logits, frame.size))
            _count(confusion, self._maps[-1], frame.label)
            self._step(number)
        return confusion

    def _step(self, number: int) -> None:
        if self._on_step is not None:
            self._on_step(number)

    def __call__(self, model: onnx.ModelProto) -> Verdict:
        """Judge `model`.

        Raises VerificationError at NaN or infinite logits, and where `model` gives one class
        everywhere though FP32 does not.
        """
        run = as_written(model)
        confusion = ConfusionMatrix(self.spec.classes)
        same = pixels = 0
        errors = _LogitError()
        classes: set[int] = set()
        for index, frame in enumerate(self.frames):
            logits = run(frame.image)
            refuse_nan(logits, frame.name)
            if index < len(self._logits):
                errors.add(logits, self._logits[index])
            found = class_map_from_logits(logits, frame.size)
            classes |= set(np.unique(found).tolist())
            same += int(np.count_nonzero(found == self._maps[index]))
            pixels += found.size
            _count(confusion, found, frame.label)
            self._step(index + 1)
        self._refuse_collapse(classes)
        labelled = self.frames.labelled
        return Verdict(
            100 * same / pixels,
            _percent(confusion.miou) if labelled else None,
            _percent(self.reference.miou) if labelled else None,
            errors.relative,
        )

    def _refuse_collapse(self, classes: set[int]) -> None:
        expected = {int(value) for found in self._maps for value in np.unique(found)}
        if len(classes) == 1 and len(expected) > 1:
            (only,) = classes
            raise VerificationError(
                f"the graph gives one class everywhere ({self.spec.class_names[only]})",
                f"{len(expected)} classes, as in FP32 on the same frames",
                "calibrate on frames like those of the camera, or build without --int8",
            )


class _LogitError:
    def __init__(self) -> None:
        self._lost = self._power = 0.0

    def add(self, found: Floats, expected: Floats) -> None:
        difference = found.astype(np.float64) - expected
        self._lost += float(np.sum(difference**2))
        self._power += float(np.sum(expected.astype(np.float64) ** 2))

    @property
    def relative(self) -> float:
        return float(np.sqrt(self._lost / self._power)) if self._power else 0.0


def as_written(model: onnx.ModelProto) -> Callable[[npt.NDArray[np.uint8]], Floats]:
    """A function uint8 `[h, w, 3]` RGB -> logits float32 `[classes, h/4, w/4]` of `model`, every
    rounding that it states carried out one by one."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    # Integer kernels of old processors saturate where the file does not.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        round_fp16(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(image: npt.NDArray[np.uint8]) -> Floats:
        logits: Floats = session.run(None, {"image": image[None]})[0][0]
        return logits

    return run


def refuse_nan(logits: Floats, where: str) -> None:
    bad = int(np.size(logits) - np.count_nonzero(np.isfinite(logits)))
    if bad:
        raise VerificationError(
            f"{bad} of {np.size(logits)} logits are NaN or infinite on {where}",
            "finite logits",
            "check the checkpoint, or build in a higher precision",
        )


def _count(confusion: ConfusionMatrix, found: Array, label: Label | None) -> None:
    if label is not None:
        confusion.update(found, label.classes, label.valid)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def bootstrap_interval(
    counts: Sequence[npt.NDArray[np.int64]],
    score: Callable[[npt.NDArray[np.int64]], float | None],
    seed: int = 0,
) -> tuple[float, float] | None:
    """The central 95 % of `score` over frames drawn with replacement; None where it has none.

    Args:
        counts: per frame, whatever adds up over frames, of one shape.
    """
    stacked = np.stack(counts)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(_BOOTSTRAPS):
        drawn = np.bincount(rng.integers(0, len(stacked), len(stacked)), minlength=len(stacked))
        value = score(np.tensordot(drawn, stacked, axes=1))
        if value is not None:
            scores.append(value)
    if not scores:
        return None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
