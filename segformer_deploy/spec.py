"""What crosses borders: frozen dataclasses, checked once where they enter, written as JSON.

A `ModelSpec` travels inside the ONNX file (metadata key ``segdeploy``) and inside each
engine folder's `Manifest`; with it, a mask measured on one machine is the mask of another.
Nothing here imports torch, onnx or numpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from segformer_deploy.errors import FrameError, SpecError

METADATA_KEY = "segdeploy"
PRECISION_KEY = "segdeploy.precision"
"""Metadata of an FP16 or INT8 graph: what was cast or quantised, what was not, and why."""
SPEC_FORMAT = 1
SMALLEST_NETWORK_SIDE = 64
"""Below this the sequence reduction of stage 1 and the later stages run out of pixels."""

Precision = Literal["fp32", "fp16", "int8"]
ResizeMode = Literal["stretch", "short_side", "none"]
ResizeFilter = Literal["pillow-bilinear", "pillow-bicubic", "pillow-nearest", "opencv-bilinear"]
OutputKind = Literal["logits", "class_map"]
Colour = tuple[int, int, int]

MEAN_IMAGENET = (0.485, 0.456, 0.406)
STD_IMAGENET = (0.229, 0.224, 0.225)


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"{what} '{value}'", "one of " + ", ".join(allowed))


@dataclass(frozen=True, order=True)
class FrameSize:
    """Height and width in pixels, written HxW."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise SpecError(f"size {self}", "a height and width of at least 1 pixel")

    @classmethod
    def parse(cls, text: str) -> FrameSize:
        """Read ``512x1024`` (height first) or ``512`` (a square)."""
        found = re.fullmatch(r"\s*(\d{1,9})(?:\s*[xX]\s*(\d{1,9}))?\s*", text)
        if not found:
            raise SpecError(f"size '{text}'", "HEIGHTxWIDTH in pixels, for example 512x1024")
        return cls(int(found[1]), int(found[2] or found[1]))

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class ResizeRule:
    """How a frame becomes the network's input; a model answers best to its training's resize.

    `stretch` to `size` whatever the aspect ratio (transformers); `short_side`: the short side
    becomes `short_side` unless the long one would exceed `long_side` (mmsegmentation's
    keep-ratio resize); `none`: the frame enters as it is.
    """

    mode: ResizeMode = "stretch"
    size: FrameSize | None = FrameSize(512, 512)
    short_side: int | None = None
    long_side: int | None = None
    filter: ResizeFilter = "pillow-bilinear"

    def __post_init__(self) -> None:
        _one_of("resize mode", self.mode, get_args(ResizeMode))
        _one_of("resize filter", self.filter, get_args(ResizeFilter))
        if self.mode == "stretch" and self.size is None:
            raise SpecError("resize rule 'stretch' without a size", "a size, HxW")
        if self.mode == "short_side" and not self.short_side:
            raise SpecError("resize rule 'short_side' without a length", "its length in pixels")

    @classmethod
    def stretch_to(cls, size: FrameSize, filter: ResizeFilter = "pillow-bilinear") -> ResizeRule:
        return cls("stretch", size, filter=filter)

    def network_size(self, frame: FrameSize) -> FrameSize:
        """The size at which the network sees a frame of size `frame`; FrameError below 64 px."""
        size = self._unchecked_network_size(frame)
        if min(size.height, size.width) < SMALLEST_NETWORK_SIDE:
            raise FrameError(
                f"a frame of {frame} would enter the network as {size}",
                f"at least {SMALLEST_NETWORK_SIDE}x{SMALLEST_NETWORK_SIDE}",
                "enlarge the frames, or export with a resize rule that does (--size HxW)",
            )
        return size

    def _unchecked_network_size(self, frame: FrameSize) -> FrameSize:
        if self.mode == "none":
            return frame
        if self.mode == "stretch":
            assert self.size is not None
            return self.size
        assert self.short_side is not None
        short, long = sorted((frame.height, frame.width))
        scale = self.short_side / short
        if self.long_side is not None:
            scale = min(scale, self.long_side / long)
        # mmcv rounds half up, not half to even.
        return FrameSize(int(frame.height * scale + 0.5), int(frame.width * scale + 0.5))

    def __str__(self) -> str:
        if self.mode == "stretch":
            return f"stretch to {self.size} ({self.filter})"
        if self.mode == "short_side":
            limit = f", long side at most {self.long_side}" if self.long_side else ""
            return f"short side {self.short_side}{limit} ({self.filter})"
        return "none"


@dataclass(frozen=True)
class Weights:
    """Where the weights come from. `origin` is ``random`` where they were never trained."""

    origin: str = "random"
    licence: str = "unknown"
    sha256: str = ""

    @property
    def random(self) -> bool:
        return self.origin == "random"


@dataclass(frozen=True)
class ModelSpec:
    """All that decides the answer besides the graph itself.

    Attributes:
        variant: ``b0`` to ``b5``, or ``custom``.
        class_names: one per logit channel, in order.
        palette: one RGB triple of 0..255 per class.
        mean, std: of the pixel values divided by 255, per RGB channel; the graph applies them.
        resize: how a frame becomes the network's input.
        label_map: label file value -> class index; empty where they are the same.
        ignore_index: the label value (after the map) that takes no part in an evaluation.
        precision: of the arithmetic inside the graph.
        output: ``logits`` at a quarter of the input's size, or ``class_map`` at its size.
        weights: origin, licence, hash.
    """

    variant: str
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    mean: tuple[float, float, float] = MEAN_IMAGENET
    std: tuple[float, float, float] = STD_IMAGENET
    resize: ResizeRule = ResizeRule()
    label_map: Mapping[int, int] | None = None
    ignore_index: int = 255
    precision: Precision = "fp32"
    output: OutputKind = "logits"
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        if not self.class_names:
            raise SpecError("a model without classes", "at least one class name")
        if len(self.palette) != len(self.class_names):
            raise SpecError(
                f"a palette of {len(self.palette)} colours for {len(self.class_names)} classes",
                "one RGB colour per class",
            )
        if any(not (isinstance(v, int) and 0 <= v <= 255) for c in self.palette for v in c):
            raise SpecError("a palette value outside 0..255", "RGB values of 0 to 255")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise SpecError(f"mean {self.mean}, std {self.std}", "three values each, std above 0")
        _one_of("precision", self.precision, get_args(Precision))
        _one_of("output", self.output, get_args(OutputKind))

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; ``"weights": "random"`` where they are random."""
        resize = self.resize
        weights = self.weights
        return {
            "format": SPEC_FORMAT,
            "variant": self.variant,
            "class_names": list(self.class_names),
            "palette": [list(colour) for colour in self.palette],
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": {
                "mode": resize.mode,
                "size": str(resize.size) if resize.size else None,
                "short_side": resize.short_side,
                "long_side": resize.long_side,
                "filter": resize.filter,
            },
            "label_map": {str(k): v for k, v in self.label_map.items()} if self.label_map else None,
            "ignore_index": self.ignore_index,
            "precision": self.precision,
            "output": self.output,
            "weights": "random"
            if weights.random
            else {
                "origin": weights.origin,
                "licence": weights.licence,
                "sha256": weights.sha256,
            },
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """Read what `to_dict` wrote; SpecError where a field is missing or of another kind."""
        if not isinstance(data, dict):
            raise SpecError(f"a model spec of type {type(data).__name__}", "a JSON object")
        if data.get("format") != SPEC_FORMAT:
            raise SpecError(
                f"model spec format {data.get('format')!r}",
                f"format {SPEC_FORMAT}",
                "export again with this version: segdeploy export",
            )
        try:
            return _spec_from_checked_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecError(
                f"a model spec that does not read ({type(error).__name__}: {error})",
                "the fields that segdeploy export writes",
                "export again with: segdeploy export",
            ) from error

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        try:
            data = json.loads(text)
        except ValueError as error:
            raise SpecError(f"a model spec that is not JSON ({error})", "a JSON object") from error
        return cls.from_dict(data)

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def stretched_to(self, size: FrameSize | None) -> ModelSpec:
        """A copy whose frames are stretched to `size` by the same filter; itself without one."""
        if size is None:
            return self
        return self.with_(resize=ResizeRule.stretch_to(size, self.resize.filter))


def _spec_from_checked_dict(data: dict[str, Any]) -> ModelSpec:
    resize, weights, labels = data["resize"], data["weights"], data["label_map"]
    return ModelSpec(
        variant=str(data["variant"]),
        class_names=tuple(str(name) for name in data["class_names"]),
        palette=tuple(_colour(colour) for colour in data["palette"]),
        mean=_triple(data["mean"]),
        std=_triple(data["std"]),
        resize=ResizeRule(
            mode=resize["mode"],
            size=FrameSize.parse(resize["size"]) if resize["size"] else None,
            short_side=resize["short_side"],
            long_side=resize["long_side"],
            filter=resize["filter"],
        ),
        label_map={int(k): int(v) for k, v in labels.items()} if labels else None,
        ignore_index=int(data["ignore_index"]),
        precision=data["precision"],
        output=data["output"],
        weights=Weights()
        if weights == "random"
        else Weights(str(weights["origin"]), str(weights["licence"]), str(weights["sha256"])),
    )


def _colour(values: Any) -> Colour:
    red, green, blue = (int(v) for v in values)
    return red, green, blue


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third


def default_palette(classes: int) -> tuple[Colour, ...]:
    """Well separated colours for any number of classes (the bit-reversal scheme of PASCAL VOC)."""
    colours = []
    for index in range(1, classes + 1):
        red = green = blue = 0
        rest = index
        for bit in range(7, -1, -1):
            red |= (rest & 1) << bit
            green |= (rest >> 1 & 1) << bit
            blue |= (rest >> 2 & 1) << bit
            rest >>= 3
        colours.append((red, green, blue))
    return tuple(colours)


def default_class_names(classes: int) -> tuple[str, ...]:
    """``class 0`` … where a checkpoint names none."""
    return tuple(f"class {index}" for index in range(classes))
