"""The main job in one call: checkpoint -> ONNX -> engine -> benchmark -> segmented video."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from segformer_deploy.bench.latency import LatencyReport, measure_latency
from segformer_deploy.bench.memory import peak_rss_mib
from segformer_deploy.files import atomic_file, write_text
from segformer_deploy.runtime.golden import golden_frame
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.images import write_image
from segformer_deploy.video.loop import RunReport, run
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.sink import open_sink
from segformer_deploy.video.source import open_source
from segformer_deploy.workflow.build import BuildOptions, BuildReport, build_engine
from segformer_deploy.workflow.export import ExportOptions, ExportReport, export_onnx

CLIP_SIZE = FrameSize(360, 640)
CLIP_FRAMES = 40
CLIP_STEP = 6
"""Pixels the camera moves per frame."""


@dataclass(frozen=True)
class DemoReport:
    """What the demo made and measured."""

    folder: Path
    export: ExportReport
    build: BuildReport
    latency: LatencyReport
    run: RunReport
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": [str(path) for path in self.files],
            "export": self.export.to_dict(),
            "engine": self.build.to_dict(),
            "bench": self.latency.to_dict(),
            "run": self.run.to_dict(),
            "peak_rss_mib": peak_rss_mib(),
        }


def demo(
    folder: Path, checkpoint: str | None, source: str | None, say: Callable[[str], None]
) -> DemoReport:
    """Run the whole chain into `folder`.

    Args:
        checkpoint: as `segdeploy export --checkpoint`; None takes what `export` takes.
        source: a video, picture or folder; None makes a short clip.

    Raises SegdeployError from whichever step fails.
    """
    say("1/4 export")
    exported = export_onnx(ExportOptions(checkpoint=checkpoint, output=folder / "model.onnx"), say)
    say("2/4 build-engine")
    built = build_engine(exported.onnx, BuildOptions(output=folder / "engine"), say)
    clip = source or str(_write_sample_clip(folder / "sample.mp4"))
    with Segmenter(built.folder) as segment:
        say("3/4 bench")
        latency = measure_latency(segment, golden_frame(CLIP_SIZE, seed=0))
        say("4/4 run")
        overlay = Overlay(segment.spec.palette, segment.spec.class_names)
        output = folder / "overlay.mp4"
        with open_source(clip) as frames, open_sink(output, frames) as sink:
            report = run(frames, segment, sink=sink, overlay=overlay)
        picture = folder / "side_by_side.png"
        _write_side_by_side(clip, segment, overlay, picture)
    paths = (exported.onnx, built.folder, Path(clip), output, picture, folder / "report.md")
    result = DemoReport(folder, exported, built, latency, report, paths)
    write_text(folder / "report.md", _report_text(result))
    return result


def _write_sample_clip(path: Path) -> Path:
    """A camera that moves sideways along a drawn street: H.264, 20 frames per second."""
    wide = FrameSize(CLIP_SIZE.height, CLIP_SIZE.width + CLIP_FRAMES * CLIP_STEP)
    street = golden_frame(wide, seed=7)
    with atomic_file(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(20))
        stream.width, stream.height = CLIP_SIZE.width, CLIP_SIZE.height
        stream.pix_fmt = "yuv420p"
        for index in range(CLIP_FRAMES):
            left = index * CLIP_STEP
            view = np.ascontiguousarray(street[:, left : left + CLIP_SIZE.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="bgr24")))
        container.mux(stream.encode())
    return path


def _write_side_by_side(clip: str, segment: Segmenter, overlay: Overlay, path: Path) -> None:
    with open_source(clip) as frames:
        frame = next(iter(frames)).image
    picture = np.hstack([frame, overlay.draw(frame, segment(frame))])
    write_image(path, picture)


def _report_text(result: DemoReport) -> str:
    spec, latency = result.export.spec, result.latency
    weights = "random: the masks mean nothing" if spec.weights.random else spec.weights.origin
    files = "\n".join(f"- `{path}`" for path in result.files)
    return f"""# segdeploy demo

| | |
|---|---|
| model | SegFormer-{spec.variant.upper()}, {spec.classes} classes |
| weights | {weights} |
| engine | {result.build.manifest.verified}, {result.build.manifest.delivered} |
| frame {CLIP_SIZE} to class map | p50 {latency.p50:.1f} ms, p90 {latency.p90:.1f} ms |
| video | {result.run.frames} frames at {result.run.fps:.1f} frames/s, decoding to file |
| peak memory of the process | {peak_rss_mib():.0f} MiB |
| machine | {platform.machine()}, Python {platform.python_version()} |

Files:

{files}
"""
