"""What a checkpoint says besides its weights: classes, colours, normalisation, resize, labels.

transformers says it in ``config.json`` and ``preprocessor_config.json``; mmsegmentation in the
``meta`` of its file, part of it as the text of a Python configuration, which is searched with
regular expressions and never executed. Where either is silent, the library's own default holds
and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segformer_deploy.errors import CheckpointError
from segformer_deploy.spec import (
    MEAN_IMAGENET,
    STD_IMAGENET,
    Colour,
    FrameSize,
    ResizeFilter,
    ResizeRule,
    default_class_names,
    default_palette,
)

IGNORED_LABEL = 255
# Pillow's numbers of its filters, as transformers writes them.
_FILTERS: dict[int, ResizeFilter] = {
    0: "pillow-nearest",
    2: "pillow-bilinear",
    3: "pillow-bicubic",
}
_ADE20K_START = ("wall", "building", "sky", "floor")
_CITYSCAPES_START = ("road", "sidewalk", "building", "wall")
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Description:
    """The fields of a ModelSpec that a checkpoint decides, and what had to be assumed."""

    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    mean: _Triple = MEAN_IMAGENET
    std: _Triple = STD_IMAGENET
    resize: ResizeRule = field(default_factory=ResizeRule)
    label_map: Mapping[int, int] | None = None
    ignore_index: int = IGNORED_LABEL
    notes: tuple[str, ...] = ()


def description_from_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, classes: int
) -> Description:
    """Read ``config.json`` and, where there is one, ``preprocessor_config.json``.

    Raises:
        CheckpointError: names for another number of classes, or a value that does not read.
    """
    names, notes = _names_from_id2label(config.get("id2label"), classes), []
    if names is None:
        names = default_class_names(classes)
        notes.append("config.json names no classes: they are numbered")
    if processor is None:
        notes.append(
            "no preprocessor_config.json: transformers' defaults hold "
            "(stretch to 512x512, ImageNet mean and std)"
        )
        processor = {}
    try:
        mean, std = _normalisation(processor)
        resize = _resize_from_processor(processor)
        ignore = int(config.get("semantic_loss_ignore_index", IGNORED_LABEL))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"preprocessor_config.json does not read ({type(error).__name__}: {error})",
            "the fields of transformers' SegformerImageProcessor",
            "download the file again, or save it again with processor.save_pretrained(FOLDER)",
        ) from error
    # Files written before transformers 4.27 call it reduce_labels.
    reduce = bool(processor.get("do_reduce_labels", processor.get("reduce_labels", False)))
    return Description(
        class_names=names,
        palette=default_palette(classes),
        mean=mean,
        std=std,
        resize=resize,
        label_map=reduced_labels(classes) if reduce else None,
        ignore_index=IGNORED_LABEL if reduce else ignore,
        notes=tuple(notes),
    )


def reduced_labels(classes: int) -> dict[int, int]:
    """Label files in which 0 is "nothing" and class k is k + 1 (ADE20K)."""
    shifted = {value + 1: value for value in range(min(classes, IGNORED_LABEL - 1))}
    return {0: IGNORED_LABEL, **shifted, IGNORED_LABEL: IGNORED_LABEL}


def _names_from_id2label(id2label: Any, classes: int) -> tuple[str, ...] | None:
    if not isinstance(id2label, Mapping):
        return None
    by_index = {str(key): str(value) for key, value in id2label.items()}
    wanted = [str(index) for index in range(classes)]
    if sorted(by_index) != sorted(wanted):
        raise CheckpointError(
            f"config.json names {len(by_index)} classes, the classifier has {classes} outputs",
            f"id2label with the keys 0 to {classes - 1}",
            "correct id2label in config.json",
        )
    return tuple(by_index[key] for key in wanted)


def _normalisation(processor: Mapping[str, Any]) -> tuple[_Triple, _Triple]:
    """Mean and std of pixel values divided by 255, whatever factor the processor uses.

    (x f - m) / s = (x/255 - m / (255 f)) / (s / (255 f)).
    """
    mean, std = MEAN_IMAGENET, STD_IMAGENET
    if processor.get("do_normalize", True):
        mean = _triple(processor.get("image_mean", mean))
        std = _triple(processor.get("image_std", std))
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    rescale = float(processor.get("rescale_factor", 1 / 255))
    scale = 255 * (rescale if processor.get("do_rescale", True) else 1.0)
    if abs(scale - 1) < 1e-6:  # 1/255 in decimal digits: keep the published mean and std
        return mean, std
    return _triple([m / scale for m in mean]), _triple([s / scale for s in std])


def _resize_from_processor(processor: Mapping[str, Any]) -> ResizeRule:
    if not processor.get("do_resize", True):
        return ResizeRule("none", None)
    resample = int(processor.get("resample", 2))
    if resample not in _FILTERS:
        raise CheckpointError(
            f"preprocessor_config.json resizes with Pillow's filter number {resample}",
            "0 (nearest), 2 (bilinear) or 3 (bicubic)",
            "set resample to 2 there if that is near enough",
        )
    size = processor.get("size", 512)
    if isinstance(size, Mapping) and "shortest_edge" in size:
        longest = size.get("longest_edge")
        return ResizeRule(
            "short_side",
            None,
            short_side=int(size["shortest_edge"]),
            long_side=int(longest) if longest else None,
            filter=_FILTERS[resample],
        )
    if isinstance(size, Mapping):
        height, width = size["height"], size["width"]
    else:
        height, width = size if isinstance(size, Sequence) else (size, size)
    return ResizeRule.stretch_to(FrameSize(int(height), int(width)), _FILTERS[resample])


def description_from_meta(meta: Mapping[str, Any], classes: int) -> Description:
    """Read the ``meta`` of an NVlabs or mmsegmentation checkpoint.

    Raises:
        CheckpointError: the network was trained on BGR frames.
    """
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    text = str(meta.get("config") or meta.get("cfg") or "")
    notes = []
    names = _listed(meta.get("CLASSES", dataset.get("classes")), classes)
    if names is None:
        notes.append("the checkpoint has no class names that fit its classifier: they are numbered")
    colours = _listed(meta.get("PALETTE", dataset.get("palette")), classes)
    class_names = tuple(map(str, names)) if names else default_class_names(classes)
    resize, assumed = _resize_from_text(text, class_names)
    notes += [assumed] if assumed else []
    if re.search(r"\b(bgr_)?to_rgb\s*=\s*False", text):
        raise CheckpointError(
            "the checkpoint's configuration feeds the network BGR frames",
            "a network trained on RGB frames",
            "train or fine-tune with to_rgb=True",
        )
    ade = len(class_names) == 150 and class_names[:4] == _ADE20K_START
    reduce = ade or bool(re.search(r"\breduce_zero_label\s*=\s*True", text))
    return Description(
        class_names=class_names,
        palette=_colours(colours) if colours else default_palette(classes),
        mean=_pixel_values(text, "mean", MEAN_IMAGENET),
        std=_pixel_values(text, "std", STD_IMAGENET),
        resize=resize,
        label_map=reduced_labels(classes) if reduce else None,
        notes=tuple(notes),
    )


def _resize_from_text(text: str, names: tuple[str, ...]) -> tuple[ResizeRule, str]:
    """The test pipeline's resize; where the text has none, the data set's usual one."""
    start = text.find("test_pipeline")
    end = text.find("\n]", start)
    pipeline = text[start:end] if start >= 0 else ""
    found = re.search(r"\b(?:img_)?scale\s*=\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", pipeline)
    if found:
        width, height = int(found[1]), int(found[2])
        if re.search(r"\bkeep_ratio\s*=\s*False", pipeline):
            return ResizeRule.stretch_to(FrameSize(height, width), "opencv-bilinear"), ""
        return _keep_ratio(min(width, height), max(width, height)), ""
    short = 1024 if names[:4] == _CITYSCAPES_START else 512
    note = f"the checkpoint states no resize: short side {short}, long side at most 2048"
    return _keep_ratio(short, 2048), note


def _keep_ratio(short: int, long: int) -> ResizeRule:
    return ResizeRule("short_side", None, short, long, filter="opencv-bilinear")


def _pixel_values(text: str, name: str, default: _Triple) -> _Triple:
    """``mean=[123.675, 116.28, 103.53]`` of 0..255 values, divided by 255."""
    found = re.search(rf"\b{name}\s*=\s*[\[(]([\d.,\s]+)[\])]", text)
    values = [float(value) for value in re.findall(r"[\d.]+", found[1])] if found else []
    if len(values) != 3:
        return default
    triple = _triple([value / 255 for value in values])
    # The ImageNet values, written times 255 and rounded: keep the exact ones.
    near = all(abs(a - b) < 1e-6 for a, b in zip(triple, default, strict=True))
    return default if near else triple


def _listed(value: Any, classes: int) -> list[Any] | None:
    if not isinstance(value, (list, tuple)) or len(value) != classes:
        return None
    return list(value)


def _colours(values: list[Any]) -> tuple[Colour, ...]:
    colours = []
    try:
        for value in values:
            red, green, blue = (int(part) for part in value)
            colours.append((red, green, blue))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's palette does not read ({error})",
            "three values of 0 to 255 per class",
            "correct meta['PALETTE'] and save the checkpoint again",
        ) from error
    return tuple(colours)


def _triple(values: Any) -> _Triple:
    first, second, third = (
        float(v) for v in (values if isinstance(values, Sequence) else [values] * 3)
    )
    return first, second, third
