"""Independent acceptance: what transformers alone says about labelled frames and about a video.

    python benchmarks/acceptance.py eval --checkpoint FOLDER --images DIR --labels DIR
    python benchmarks/acceptance.py make-video --images DIR --output drive.mp4
    python benchmarks/acceptance.py video --checkpoint FOLDER --video drive.mp4 --masks DIR

Nothing of segformer_deploy is imported, so that an error of ours cannot judge itself: the
network and the pre-processing are transformers', the decoder is FFmpeg's, the rest is NumPy.
Prints one JSON object; exit code 1 with one message where something cannot be used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}
Picture = np.ndarray[Any, Any]


class UnusableError(Exception):
    """Something that was handed over cannot be used; the message says what and why."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        print(json.dumps(options.run(options)))
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class Transformers:
    """A checkpoint in transformers: picture to logits at any size."""

    def __init__(self, checkpoint: Path) -> None:
        _need("torch", "transformers", "PIL")
        if not (checkpoint / "config.json").is_file():
            raise UnusableError(f"{checkpoint} is no checkpoint folder in transformers' format")
        from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

        folder = str(checkpoint)
        self.processor = SegformerImageProcessorPil.from_pretrained(folder)
        self.model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
        self.classes = int(self.model.config.num_labels)

    def logits(self, picture: Picture, size: tuple[int, int]) -> Picture:
        """RGB uint8 `[H, W, 3]` -> float32 `[classes, *size]`, upsampled bilinearly."""
        import torch

        with torch.inference_mode():
            # Labels are reduced by `reduced`, not here: this touches the picture alone.
            inputs = self.processor(images=picture, return_tensors="pt", do_reduce_labels=False)
            logits = self.model(**inputs).logits
            large = torch.nn.functional.interpolate(
                logits, size=size, mode="bilinear", align_corners=False
            )
        return np.asarray(large[0].numpy())


def reduced(label: Picture) -> Picture:
    """Labels of datasets whose 0 is background (ADE20K): n -> n - 1; 0 and 255 are ignored."""
    label = label.astype(np.int64)
    return np.where((label == 0) | (label == 255), 255, label - 1)


def confusion(label: Picture, class_map: Picture, classes: int) -> Picture:
    """Counts `[true class, found class]`; labels outside 0..classes-1 take no part."""
    label, class_map = label.astype(np.int64), class_map.astype(np.int64)
    counts = (label >= 0) & (label < classes)
    pairs = label[counts] * classes + class_map[counts]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: Picture) -> dict[str, Any]:
    """Percentages from a confusion matrix; a class in neither labels nor maps has no IoU."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hit
    iou = [100 * h / u if u > 0 else None for h, u in zip(hit, union, strict=True)]
    present = [value for value in iou if value is not None]
    total = matrix.sum()
    return {
        "miou": float(np.mean(present)) if present else None,
        "per_class_iou": iou,
        "pixel_accuracy": float(100 * hit.sum() / total) if total else None,
    }


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """mIoU of a checkpoint on labelled pictures, found by file name without its ending."""
    images, labels = _by_stem(options.images), _by_stem(options.labels)
    missing = sorted(set(images) - set(labels))
    if missing:
        raise UnusableError(
            f"{options.labels} has no label for {missing[0]} ({len(missing)} missing)"
        )
    network = Transformers(options.checkpoint)
    classes = options.classes or network.classes
    if classes > network.classes:
        raise UnusableError(f"--classes {classes}, but the checkpoint has {network.classes}")
    matrix = np.zeros((classes, classes), np.int64)
    for stem, path in images.items():
        label = _gray(labels[stem])
        if network.processor.do_reduce_labels:
            label = reduced(label)
        logits = network.logits(_rgb(path), (label.shape[0], label.shape[1]))
        matrix += confusion(label, logits[:classes].argmax(axis=0), classes)
    return scores(matrix) | {"images": len(images), "classes": classes}


def compare_video(options: argparse.Namespace) -> dict[str, Any]:
    """Class maps in a folder, in order of their names, against transformers on each frame."""
    masks = list(_by_stem(options.masks).values())
    network = Transformers(options.checkpoint)
    shares: list[float] = []
    widest = 0.0
    frames = 0
    for frame in decoded(options.video):
        frames += 1
        if frames > len(masks):
            continue  # count them all: the message below names both numbers
        mask = _gray(masks[frames - 1])
        if mask.shape != frame.shape[:2]:
            raise UnusableError(f"{masks[frames - 1]} is {mask.shape}, the frame {frame.shape[:2]}")
        logits = network.logits(frame, (frame.shape[0], frame.shape[1]))
        differs = logits.argmax(axis=0) != mask
        shares.append(1.0 - float(differs.mean()))
        if differs.any():
            top_two = np.partition(logits[:, differs], -2, axis=0)[-2:]
            widest = max(widest, float((top_two[1] - top_two[0]).max()))
    if frames != len(masks):
        raise UnusableError(
            f"{options.video} has {frames} frames, {options.masks} {len(masks)} masks"
        )
    return {
        "frames": frames,
        "agreement": float(np.mean(shares)),
        "worst_frame_agreement": min(shares),
        "identical_frames": sum(share == 1.0 for share in shares),
        # How sure the reference was, at most, of a pixel that came out otherwise.
        "widest_margin_of_a_difference": widest,
    }


def decoded(video: Path) -> Iterator[Picture]:
    """Every frame of the first video stream, uint8 `[H, W, 3]`, RGB, unrotated."""
    _need("av")
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise UnusableError(f"{video} holds no video")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, av.error.FFmpegError) as error:
        raise UnusableError(f"{video} cannot be decoded: {error}") from error


def make_video(options: argparse.Namespace) -> dict[str, Any]:
    """The pictures of a folder, in order of their names, as H.264 (crf 12, yuv420p)."""
    _need("av")
    import av

    paths = list(_by_stem(options.images).values())
    height, width, _ = _rgb(paths[0]).shape
    if height % 2 or width % 2:
        raise UnusableError(f"{paths[0]} is {height}x{width}: yuv420p needs even sides")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(options.output), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(options.fps))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": "12"}
        for path in paths:
            picture = _rgb(path)
            if picture.shape != (height, width, 3):
                raise UnusableError(f"{path} is {picture.shape[:2]}, the first {height}x{width}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return {"output": str(options.output), "frames": len(paths), "height": height, "width": width}


def _need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UnusableError(f"'{module}' is missing: pip install \"segformer-deploy[peers]\"")


def _by_stem(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by name without ending, sorted."""
    if not folder.is_dir():
        raise UnusableError(f"{folder} is no folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise UnusableError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return {path.stem: path for path in paths}


def _rgb(path: Path) -> Picture:
    _need("PIL")
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _gray(path: Path) -> Picture:
    """Class indices `[H, W]`; the indices of a palette picture, not its colours."""
    _need("PIL")
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise UnusableError(f"{path} has {values.shape[2]} channels: class indices have one")
    return values


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="eval | video | make-video")

    def command(name: str, run: Any, *folders: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=run)
        for folder in folders:
            sub.add_argument(f"--{folder}", type=Path, required=True)
        return sub

    command("eval", evaluate, "checkpoint", "images", "labels").add_argument(
        "--classes", type=int, help="how many take part; all of the checkpoint unless given"
    )
    command("video", compare_video, "checkpoint", "video", "masks")
    command("make-video", make_video, "images", "output").add_argument(
        "--fps", type=int, default=10, help="frames per second"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
