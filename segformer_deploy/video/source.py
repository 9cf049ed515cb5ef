"""Opening what is to be segmented: a file, a folder, a camera, a stream, streets, or stdin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from segformer_deploy.errors import MediaError
from segformer_deploy.video.address import Address, parse_address
from segformer_deploy.video.frame import Frame, Source, SourceKind
from segformer_deploy.video.images import image_size, is_image, list_images, read_image
from segformer_deploy.video.live.connection import Open
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.live.open_grabber import open_grabber
from segformer_deploy.video.live.ordered import Looped, OrderedSource
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.video_file import VideoFile

__all__ = ["CaptureOptions", "Frame", "Images", "Source", "VideoFile", "open_source"]


def open_source(text: str | Path, options: CaptureOptions | None = None) -> Source:
    """The source that `text` names; see `address.parse_address`.

    A camera, a URL or the streets are live unless told otherwise: `LiveSource`. A file, a folder
    or stdin is read in order, every frame.

    Raises:
        MediaError: nothing there, an empty file, a folder without images, a file that is neither
            an image nor a video, a camera that does not answer, a wrong password …
    """
    options = options or CaptureOptions()
    address = parse_address(text)
    live = not address.waits if options.live is None else options.live
    # A pipe opened again would go on in the middle of a frame, a file from its beginning.
    again = options.reconnect and address.comes_back
    options = replace(options, live=live, reconnect=again)
    if live:
        return LiveSource(address.name, _opener(address, options), options)
    if address.kind != "file":
        return OrderedSource(address.name, _opener(address, options))
    source = _open_file(address.text)
    return Looped(source) if options.loop else source


def _opener(address: Address, options: CaptureOptions) -> Open:
    return partial(open_grabber, address, options, partial(_open_file, address.text))


def _open_file(text: str) -> Source:
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
