"""The workers: one that plans, and one that segments chunks with an engine that it holds."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from segformer_deploy.batch.chunk import write_chunk
from segformer_deploy.batch.folder import BatchFolder
from segformer_deploy.batch.identity import MadeBy
from segformer_deploy.batch.plan import Plan, plan_video, stamp_of
from segformer_deploy.batch.run_length import RunLengthLog, need_pyarrow
from segformer_deploy.batch.settings import BatchSettings
from segformer_deploy.batch.task import ChunkResult, ChunkTask, PlanTask
from segformer_deploy.errors import MediaError
from segformer_deploy.video.coded import PartSink
from segformer_deploy.video.loop import RunReport, run_streams
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.sink import MaskSink
from segformer_deploy.video.stream import Stream
from segformer_deploy.video.video_file import VideoFile
from segformer_deploy.video.video_part import UnevenPartError, VideoPart

OVERLAY, MASKS, RUNS = "overlay.h264", "masks", "frames.parquet"


class Planner:
    """A worker that plans; it needs no engine."""

    def __call__(self, task: PlanTask) -> Plan:
        return plan_video(task.path, task.chunk_seconds)


class ChunkWorker:
    """A worker that segments chunks into the output folder.

    Args:
        settings, output, token: of the batch.
        made_by: what the batch was begun with; None: whatever is here.

    Raises:
        SegdeployError: the engine does not load here or is another one, the folder is not seen
            from here, or something that the outputs need is missing.
    """

    def __init__(
        self, settings: BatchSettings, output: Path, token: str, made_by: MadeBy | None = None
    ) -> None:
        self._settings = settings
        self._folder = BatchFolder(output, token)
        self._folder.check()
        if settings.parquet:
            need_pyarrow()
        self._segment = settings.open_segmenter()
        if made_by is not None:
            try:  # after it was opened: what is replaced before is seen, too
                made_by.check(settings.engine)
            except BaseException:
                self.close()
                raise

    def __call__(self, task: ChunkTask) -> ChunkResult:
        place = self._folder.chunk(task.key, task.number, task.chunks)
        if self._folder.finished(place):  # made by one who could not say so any more
            return ChunkResult()
        if stamp_of(task.path) != task.stamp:
            raise MediaError(
                f"{task.path} was changed while the batch ran",
                "videos that stay as they are",
                "the same command takes it as it is now",
            )
        try:
            with self._folder.new_chunk(place) as aside:
                frames = self._segmented(task, aside)
        except UnevenPartError as error:
            return ChunkResult(uneven=error.found)
        return ChunkResult(frames)

    def close(self) -> None:
        """Give the engine back."""
        self._segment.close()

    def _segmented(self, task: ChunkTask, aside: Path) -> int:
        settings, spec = self._settings, self._segment.spec
        meta: dict[str, Any] = {}
        with ExitStack() as stack:
            source = VideoFile(task.path) if task.part is None else VideoPart(task.path, task.part)
            stack.enter_context(source)
            sink = PartSink(aside / OVERLAY, source, task.size) if settings.overlay else None
            if sink is not None:
                stack.callback(sink.abort)  # where the next line fails
            stream = Stream(
                source,
                () if sink is None else (sink,),
                MaskSink(aside / MASKS, spec.classes) if settings.masks else None,
                RunLengthLog(aside / RUNS, spec.class_names) if settings.parquet else None,
                Overlay(spec.palette, spec.class_names, legend=settings.legend) if sink else None,
            )
            report = run_streams(
                [stream], self._segment, opacity=settings.opacity, class_names=spec.class_names
            )[0]
            if report.interrupted:
                raise KeyboardInterrupt
            meta = _meta(report)
            if sink is not None:
                meta["coded"] = sink.coded.to_dict()
        write_chunk(aside, meta)
        return report.frames


def _meta(report: RunReport) -> dict[str, Any]:
    return {
        "frames": report.frames,
        "corrupt": report.corrupt,
        "notes": report.notes,
        "class_shares": report.class_shares,
    }
