"""Opening what is to be segmented: a video file, a folder of images, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from segformer_deploy.errors import MediaError
from segformer_deploy.video.frame import Frame, Source, SourceKind
from segformer_deploy.video.images import image_size, is_image, list_images, read_image
from segformer_deploy.video.video_file import VideoFile

__all__ = ["Frame", "Images", "Source", "VideoFile", "open_source"]


def open_source(text: str | Path) -> Source:
    """The source that `text` names: a folder of images, an image, or else a video file.

    Raises:
        MediaError: nothing there, an empty file, a folder without images, or a file that is
            neither an image nor a video.
    """
    path = Path(text)
    if path.is_dir():
        return Images(path, "images", list_images(path))
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise MediaError(
            f"cannot open {path}: {error.strerror}", "a video, an image, or a folder of images"
        ) from error
    if empty:
        raise MediaError(f"{path} is empty", "a video or an image", "copy or save it again")
    if is_image(path):
        return Images(path, "image", [path])
    return VideoFile(path)


class Images(Source):
    """Still images, one frame each, in natural order of their names (``2`` before ``10``).

    `size` is the first image's; each frame comes at its own. Iterating raises MediaError at
    an image that does not read: a folder with a damaged picture is not skipped over.
    """

    def __init__(self, path: Path, kind: SourceKind, images: list[Path]) -> None:
        self.path = path
        self.kind = kind
        self.size = image_size(images[0])
        self.frame_count: int | None = len(images)
        self.fps: Fraction | None = None
        self.corrupt = 0
        self.finished = False
        self.notes: list[str] = []
        self._images = images

    def __iter__(self) -> Iterator[Frame]:
        self.finished = False
        for index, path in enumerate(self._images):
            yield Frame(image=read_image(path), index=index, time_s=None, name=path.name)
        self.finished = True

    def close(self) -> None:
        """Nothing stays open between two images."""
