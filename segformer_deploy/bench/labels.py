"""Label pictures: class indices out of files, and which file belongs to which image.

A label picture holds one number per pixel: an 8- or 16-bit grey picture, or a palette PNG,
whose numbers are the indices into the palette. Those numbers are the data set's; the model's
label map turns them into the model's classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.bench.index_png import index_png
from segformer_deploy.errors import MediaError
from segformer_deploy.runtime.plain_png import SIGNATURE
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.video.images import list_images

Values = npt.NDArray[np.int64]

LABEL_ENDINGS = (".png", ".tif", ".tiff", ".pgm")
"""File formats that keep every value; JPEG invents values along edges."""

_AS_INDICES = "a picture with one class index per pixel (8- or 16-bit grey, or palette, PNG)"


@dataclass(frozen=True)
class Label:
    """One label picture in the model's classes.

    Attributes:
        classes: int64 `[H, W]`, the class index; 0 where not valid.
        valid: bool `[H, W]`, False where the pixel is void and takes no part.
    """

    classes: Values
    valid: npt.NDArray[np.bool_]

    @property
    def size(self) -> FrameSize:
        return FrameSize(*self.classes.shape)

    def resized(self, size: FrameSize) -> Label:
        """The label at another size: each pixel takes the one whose area its centre falls in."""
        rows = _nearest(size.height, self.classes.shape[0])
        columns = _nearest(size.width, self.classes.shape[1])
        grid = np.ix_(rows, columns)
        return Label(self.classes[grid], self.valid[grid])


def _nearest(count: int, source: int) -> npt.NDArray[np.int64]:
    # floor((i + 1/2) * source / count) in integers: exact, no rounding decides a pixel.
    return (2 * np.arange(count, dtype=np.int64) + 1) * source // (2 * count)


def read_label(path: Path, spec: ModelSpec, *, ignore: int | None = None) -> Label:
    """The label picture at `path` in the classes of `spec`.

    The file's values pass through `spec.label_map` where there is one; a value that the map
    leaves out has no class. Without `ignore`, void is whatever is no class of the model, and
    `spec.ignore_index`. With it, void is that value of the file (and what a label map sends to
    `spec.ignore_index`); any other value outside the classes raises MediaError, naming the
    value and the file.

    Raises MediaError also where the file does not read or holds colours instead of indices.
    """
    values = read_values(path)
    classes, void = _mapped(values, spec)
    if ignore is not None:
        # The user's word replaces the model's own rule where no map stands between them.
        void = (values == ignore) | void if spec.label_map else values == ignore
    outside = ((classes < 0) | (classes >= spec.classes)) & ~void
    if ignore is not None and outside.any():
        _refuse_value(path, values, outside, spec, ignore)
    valid = ~(void | outside)
    classes[~valid] = 0
    return Label(classes, valid)


def _mapped(values: Values, spec: ModelSpec) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Class indices, -1 for no class; and which pixels the model's own rule makes void."""
    if not spec.label_map:
        return values.copy(), values == spec.ignore_index
    table = _table(spec.label_map, int(values.max(initial=0)))
    classes = table[values]
    return classes, classes == spec.ignore_index


def _table(label_map: Mapping[int, int], largest: int) -> Values:
    table = np.full(largest + 1, -1, np.int64)
    for value, index in label_map.items():
        if 0 <= value <= largest:
            table[value] = index
    return table


def _refuse_value(
    path: Path, values: Values, outside: npt.NDArray[np.bool_], spec: ModelSpec, ignore: int
) -> None:
    wrong = [int(value) for value in np.unique(values[outside])]
    names = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
    allowed = (
        "the values of the model's label map"
        if spec.label_map
        else f"values 0 to {spec.classes - 1}"
    )
    raise MediaError(
        f"label {path} holds the value{'s' * (len(wrong) > 1)} {names}",
        f"{allowed}, or {ignore} for void",
        "check that the labels belong to this model, or leave --ignore out: every value "
        "outside the classes is void then",
    )


def read_values(path: Path) -> Values:
    """The raw numbers of a label picture, int64 `[H, W]`; MediaError where there are none."""
    if path.suffix.lower() not in LABEL_ENDINGS:
        raise MediaError(
            f"label {path} is a {path.suffix or 'file without an ending'}",
            f"{_AS_INDICES}; endings: {', '.join(LABEL_ENDINGS)}",
            "write the labels as PNG; a lossy format changes their values",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(
            f"label {path} cannot be read: {error.strerror or error}", "a readable file"
        ) from error
    factor = 1
    if data.startswith(SIGNATURE):
        data, factor = index_png(data, path)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if picture is None:
        raise MediaError(
            f"label {path} does not decode", "a whole picture file", "copy or write it again"
        )
    return _single_channel(np.asarray(picture), path) // factor


def _single_channel(picture: npt.NDArray[Any], path: Path) -> Values:
    """The one channel of a picture, or the common value of equal ones."""
    if picture.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"label {path} holds values of type {picture.dtype}", _AS_INDICES)
    if picture.ndim == 2:
        return picture.astype(np.int64)
    colour = picture[..., :3]
    if picture.shape[2] == 4 and (picture[..., 3] != np.iinfo(picture.dtype).max).any():
        raise MediaError(
            f"label {path} is partly transparent", _AS_INDICES, "write it without transparency"
        )
    if (colour != colour[..., :1]).any():
        raise MediaError(
            f"label {path} holds colours, not class indices",
            _AS_INDICES,
            "translate the colours to indices first, or take the data set's index pictures "
            "(for Cityscapes the files *_labelTrainIds.png)",
        )
    return colour[..., 0].astype(np.int64)


class Pair(NamedTuple):
    """An image and its label picture."""

    image: Path
    label: Path


@dataclass(frozen=True)
class Pairing:
    """Images with their labels, in the order of the images; labels left over."""

    pairs: tuple[Pair, ...]
    unused: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.unused:
            return ()
        return (f"{len(self.unused)} label files belong to no image ({_some(self.unused)})",)


def pair_files(images: Path, labels: Path) -> Pairing:
    """The images of one folder with their label pictures of another; see `pair_labels`.

    Raises MediaError where a folder is missing or empty, or an image has no label or two.
    """
    return pair_labels(list_images(images), labels)


def pair_labels(images: Sequence[Path], folder: Path) -> Pairing:
    """Find the label picture of each image under `folder` (subfolders too).

    A label of the image's own stem comes first (``a.jpg``, ``a.png``). Otherwise one whose
    stem is the image's and a suffix: ``a_L.png``, ``a.labels.png``, or, the image being
    ``a_leftImg8bit.png``, ``a_gtFine_labelTrainIds.png``. A suffix begins with one of ``_.-``
    and holds a letter, and a label goes to the longest stem it fits, so ``a_1`` does not take
    the labels of ``a_1_2``.

    Raises MediaError, naming the files, where an image has no label or two.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", "a folder of label pictures")
    if not images:
        raise MediaError("there are no images to score", "at least one image with its label")
    own = {image.resolve() for image in images}
    labels = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in LABEL_ENDINGS and path.is_file() and path.resolve() not in own
    )
    exact = _labels_by_exact_stem([path.stem for path in images], labels)
    continued = _labels_by_stem([_bare_stem(path) for path in images], labels)
    chosen: list[Pair] = []
    without: list[Path] = []
    for image in images:
        candidates = exact[image.stem] or continued[_bare_stem(image)]
        if not candidates:
            without.append(image)
            continue
        if len(candidates) > 1:
            raise MediaError(
                f"image {image.name} has {len(candidates)} labels ({_some(candidates)})",
                "one label picture per image",
                "put the labels that are meant into a folder of their own",
            )
        chosen.append(Pair(image, candidates[0]))
    if without:
        raise MediaError(
            f"{len(without)} of {len(images)} images have no label in {folder} ({_some(without)})",
            "a label for each image: the image's name, or that and a suffix such as _L",
            "point --labels at the folder that holds them, or take those images away",
        )
    taken = {pair.label for pair in chosen}
    return Pairing(tuple(chosen), tuple(path for path in labels if path not in taken))


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (", …" if len(paths) > 5 else "")


_IMAGE_SUFFIX = "_leftImg8bit"
_NO_CLASSES = ("_color", "_instanceIds", "_instanceTrainIds")
"""Cityscapes keeps pictures of colours and of instances beside those of classes."""


def _bare_stem(image: Path) -> str:
    return image.stem.removesuffix(_IMAGE_SUFFIX)


def _labels_by_exact_stem(stems: Sequence[str], labels: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {stem: [] for stem in stems}
    for label in labels:
        if label.stem in found:
            found[label.stem].append(label)
    return found


def _labels_by_stem(stems: Sequence[str], labels: Sequence[Path]) -> dict[str, list[Path]]:
    """Each label under the longest stem that it continues with a suffix."""
    known = set(stems)
    found: dict[str, list[Path]] = {stem: [] for stem in stems}
    for label in labels:
        if label.stem.endswith(_NO_CLASSES) or label.stem in known:
            continue
        for end in range(len(label.stem) - 1, 0, -1):
            stem, suffix = label.stem[:end], label.stem[end:]
            if stem in known:
                if suffix[0] in "_.-" and any(sign.isalpha() for sign in suffix):
                    found[stem].append(label)
                break
    return found
