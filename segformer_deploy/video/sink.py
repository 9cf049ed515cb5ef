"""Opening where the results go: a video, a stream, a device, pictures, class maps."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy import files
from segformer_deploy.errors import MediaError, OutputError
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.images import write_image
from segformer_deploy.video.sink_base import Sink
from segformer_deploy.video.video_writer import VIDEO_ENDINGS, VideoSink

__all__ = ["FolderSink", "MaskSink", "Sink", "StillSink", "VideoSink", "open_sink"]

_STILL_ENDINGS = (".png", ".jpg", ".jpeg")


def open_sink(output: str | Path, source: Source) -> Sink:
    """The sink that `output` names, for the pictures of `source`.

    ``.mp4 .mkv .mov``: a video. ``.png .jpg``: one picture, of a single image only. No ending,
    or an existing folder: one PNG per frame, named as the source's frames. ``rtsp://…``,
    ``rtmp://…``, ``srt://…``, ``udp://…``: pushed there. ``/dev/video9``: a v4l2loopback device.

    Raises:
        MediaError: another ending, a single picture for many frames, or the source itself.
        OutputError: the place cannot be written.
    """
    if "://" in str(output):
        from segformer_deploy.video.push_sink import PushSink

        return PushSink(str(output), source)
    path = Path(output)
    if is_loopback_device(path):
        from segformer_deploy.video.loopback_sink import LoopbackSink

        return LoopbackSink(path)
    _refuse_to_overwrite(path, source)
    ending = path.suffix.lower()
    if path.is_dir() or not ending:
        return FolderSink(path, source)
    if ending in VIDEO_ENDINGS:
        return VideoSink(path, source)
    if ending not in _STILL_ENDINGS:
        raise MediaError(
            f"the output {path.name} ends in {ending}",
            f"a video ({' '.join(VIDEO_ENDINGS)}), a picture ({' '.join(_STILL_ENDINGS)}) "
            "or a folder (no ending)",
            f"--output {path.stem}.mp4",
        )
    if source.kind != "image":
        raise MediaError(
            f"the output {path.name} is one picture, but {source.path} holds many frames",
            "a video file or a folder",
            f"--output {path.with_suffix('.mp4').name}, or --output {path.stem} for a folder",
        )
    return StillSink(path)


def is_loopback_device(path: Path) -> bool:
    """Whether a video device is meant: nobody calls a folder or a film ``/dev/video9``."""
    return str(path.parent) == "/dev" and path.name.startswith("video")


def _refuse_to_overwrite(path: Path, source: Source) -> None:
    if path.resolve() == source.path.resolve():
        raise MediaError(
            f"the output {path} is the source itself", "another place", "choose another --output"
        )


class StillSink(Sink):
    """One picture in one file."""

    def write(self, frame: Frame, picture: Picture) -> None:
        self._check_open()
        write_image(self.path, picture)


class _Names:
    """A file name per frame: the source's own stem, once each."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def stem(self, frame: Frame) -> str:
        # a.jpg and a.png in one folder must not become one a.png; case may not tell either.
        for name in (Path(frame.name).stem, frame.name, f"{frame.name}-{frame.index}"):
            if name.casefold() not in self._used:
                break
        self._used.add(name.casefold())
        return name


class FolderSink(Sink):
    """One PNG per frame; other files in the folder stay."""

    def __init__(self, path: Path, source: Source) -> None:
        super().__init__(path)
        _make_folder(path)
        self._names = _Names()

    def write(self, frame: Frame, picture: Picture) -> None:
        self._check_open()
        write_image(self.path / f"{self._names.stem(frame)}.png", picture)


class MaskSink:
    """A folder of class maps as grey PNG files: a pixel's value is its class's index.

    8 bits up to 256 classes, 16 bits above. Named as `FolderSink` names pictures. A context
    manager like the other sinks.

    Args:
        folder: made where it does not exist.
        classes: number of classes of the model.
        source: whose own folder must not be written to.
    """

    def __init__(self, folder: str | Path, classes: int, source: Source | None = None) -> None:
        self.path = Path(folder)
        if source is not None:
            _refuse_to_overwrite(self.path, source)
        if self.path.suffix.lower() in (*_STILL_ENDINGS, *VIDEO_ENDINGS) and not self.path.is_dir():
            raise MediaError(
                f"class maps cannot go into {self.path.name}: that is a file's name",
                "a folder",
                f"--masks {self.path.stem}",
            )
        _make_folder(self.path)
        self._names = _Names()
        self._narrow = classes <= 256

    def write(self, frame: Frame, class_map: npt.NDArray[Any]) -> None:
        """Write a class map `[H, W]` of integers; OutputError where it cannot be written."""
        path = self.path / f"{self._names.stem(frame)}.png"
        if self._narrow:
            write_image(path, class_map.astype(np.uint8, copy=False))
        else:
            write_image(path, class_map.astype(np.uint16, copy=False))

    def close(self) -> None:
        """Nothing is held open; here so that all sinks close alike."""

    def __enter__(self) -> MaskSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(
            f"{path} is a file", "a folder, or a name that is free", "choose another name"
        )
    with files.writing(path):
        path.mkdir(parents=True, exist_ok=True)
