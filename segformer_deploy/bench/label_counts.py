"""What the labels of a set were like, and how class maps change where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segformer_deploy.bench import ClassMap
from segformer_deploy.bench.labels import Label
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.flicker import still_and_changed

_MUCH_VOID = 0.5
_ASPECT_SLACK = 0.02


class LabelCounts:
    """What the labels were like: void pixels, other sizes."""

    def __init__(self) -> None:
        self.pixels = self.void = self.resized = self.distorted = 0

    def fitted(self, label: Label, frame_shape: tuple[int, ...]) -> Label:
        size = FrameSize(frame_shape[0], frame_shape[1])
        if label.size != size:
            self.resized += 1
            own, wanted = label.size.width / label.size.height, size.width / size.height
            self.distorted += abs(own / wanted - 1) > _ASPECT_SLACK
            label = label.resized(size)
        self.pixels += label.valid.size
        self.void += label.valid.size - int(np.count_nonzero(label.valid))
        return label

    @property
    def void_share(self) -> float:
        return self.void / self.pixels

    def notes(self) -> list[str]:
        found = []
        if self.resized:
            found.append(
                f"{self.resized} labels had another size than their image and were resized "
                "(nearest pixel)"
            )
        if self.distorted:
            found.append(f"{self.distorted} of them had another aspect ratio: are they theirs?")
        if self.void_share > _MUCH_VOID:
            found.append(
                f"{100 * self.void_share:.1f} % of the pixels are void: do the labels belong to "
                "this model's classes? --ignore V refuses any other unknown value"
            )
        return found


class LabelFlicker:
    """The flicker of frames that follow each other: see `video.flicker`.

    A pixel counts where it has the same class in the labels of two frames in a row, void in
    neither. Frames of another size, or in another folder, begin anew.
    """

    def __init__(self) -> None:
        self._before: tuple[ClassMap, Label] | None = None
        self._folder: Path | None = None
        self._still = self._changed = 0

    def update(self, prediction: ClassMap, label: Label, folder: Path | None = None) -> None:
        """Take the next frame, which lies in `folder`."""
        before, self._before = self._before, (prediction.copy(), label)
        same_folder, self._folder = folder == self._folder, folder
        if before is None or not same_folder or before[1].size != label.size:
            return
        old, old_label = before
        same = old_label.valid & label.valid & (old_label.classes == label.classes)
        still, changed = still_and_changed(old, prediction, same)
        self._still, self._changed = self._still + still, self._changed + changed

    @property
    def share(self) -> float | None:
        """0 to 1; None where no pixel kept its class."""
        return self._changed / self._still if self._still else None
