"""The main job in one call: model -> engine -> benchmark -> segmented, scored video."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.bench.latency import LatencyReport, measure_latency
from segformer_deploy.bench.memory import peak_rss_mib
from segformer_deploy.engine.session import Array
from segformer_deploy.files import atomic_file, write_text
from segformer_deploy.runtime.segmenter import Frame, Segmenter
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.streets import CLASS_NAMES, StreetVideo
from segformer_deploy.video.images import write_image
from segformer_deploy.video.loop import RunReport, run
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.sink import open_sink
from segformer_deploy.video.source import open_source
from segformer_deploy.workflow.build import BuildOptions, BuildReport, build_engine
from segformer_deploy.workflow.export import ExportOptions, export_onnx

CLIP_SIZE = FrameSize(512, 768)
CLIP_FRAMES = 75
CLIP_FPS = 15
CLIP_SEED = 10_000_007
"""A drive that no training has seen: their seeds lie below ten million."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """What the demo made and measured. `miou` (percent) is None where there are no labels."""

    folder: Path
    spec: ModelSpec
    build: BuildReport
    latency: LatencyReport
    run: RunReport
    miou: float | None
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": [str(path) for path in self.files],
            "engine": self.build.to_dict(),
            "bench": self.latency.to_dict(),
            "run": self.run.to_dict(),
            "miou": self.miou,
            "peak_rss_mib": peak_rss_mib(),
        }


class _Scored:
    """A segmenter that holds its class maps against the labels of the clip, frame by frame."""

    def __init__(self, segment: Segmenter, labels: list[Array]) -> None:
        self.segment = segment
        self.labels = iter(labels)
        self.matrix = ConfusionMatrix(segment.spec.classes)

    def __call__(self, frame: Frame) -> Array:
        class_map = self.segment(frame)
        label = next(self.labels, None)
        if label is not None:
            self.matrix.update(class_map, label, np.ones(label.shape, bool))
        return class_map


def demo(folder: Path, checkpoint: str | None, source: str | None, say: Say) -> DemoReport:
    """Run the whole chain into `folder`.

    Args:
        checkpoint: as `segdeploy export --checkpoint`; None takes the shipped model, or random
            weights where there is none.
        source: a video, picture or folder; None generates a street that nobody trained on.

    Raises SegdeployError from whichever step fails.
    """
    say("1/4 model")
    onnx = _onnx_for_demo(folder, checkpoint, say)
    say("2/4 build-engine")
    built = build_engine(onnx, BuildOptions(output=folder / "engine"), say)
    labels: list[Array] = []
    clip = Path(source) if source else folder / "sample.mp4"
    if source is None:
        say("generating a street to drive through")
        labels = _write_sample_clip(clip)
    with Segmenter(built.folder) as segment:
        spec = segment.spec
        say("3/4 bench")
        latency = measure_latency(segment, _first_frame(clip))
        say("4/4 run")
        scored = _Scored(segment, labels if spec.class_names == CLASS_NAMES else [])
        overlay = Overlay(spec.palette, spec.class_names)
        output = folder / "overlay.mp4"
        with open_source(clip) as frames, open_sink(output, frames) as sink:
            report = run(frames, scored, sink=sink, overlay=overlay, class_names=spec.class_names)
        picture = folder / "side_by_side.png"
        frame = _first_frame(clip)
        write_image(picture, np.hstack([frame, overlay.draw(frame, segment(frame))]))
    miou = scored.matrix.miou
    files = (onnx, built.folder, clip, output, picture, folder / "report.md")
    result = DemoReport(
        folder, spec, built, latency, report, None if miou is None else 100 * miou, files
    )
    write_text(folder / "report.md", _report_text(result, clip))
    return result


def _onnx_for_demo(folder: Path, checkpoint: str | None, say: Say) -> Path:
    """The shipped ONNX file, copied, which needs no torch; else an export."""
    target = folder / "model.onnx"
    shipped = shipped_file(ONNX_FILE)
    if checkpoint is None and shipped is not None:
        with atomic_file(target) as temporary:
            shutil.copyfile(shipped, temporary)
        return target
    return export_onnx(ExportOptions(checkpoint=checkpoint, output=target), say).onnx


def _write_sample_clip(path: Path) -> list[Array]:
    """Write a generated drive (H.264); the label `[H, W]` of each of its frames."""
    labels: list[Array] = []
    drive = iter(StreetVideo(CLIP_SEED, CLIP_SIZE, CLIP_FPS))
    with atomic_file(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(CLIP_FPS), options={"crf": "16"})
        stream.width, stream.height = CLIP_SIZE.width, CLIP_SIZE.height
        stream.pix_fmt = "yuv420p"
        for _ in range(CLIP_FRAMES):
            image, label = next(drive)
            labels.append(label)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return labels


def _first_frame(clip: Path) -> Frame:
    with open_source(clip) as frames:
        return next(iter(frames)).image


def _report_text(result: DemoReport, clip: Path) -> str:
    spec, latency = result.spec, result.latency
    weights = "random: the masks mean nothing" if spec.weights.random else spec.weights.origin
    files = "\n".join(f"- `{path}`" for path in result.files)
    score = (
        "" if result.miou is None else f"| mIoU against the clip's labels | {result.miou:.1f} % |\n"
    )
    return f"""# segdeploy demo

| | |
|---|---|
| model | SegFormer-{spec.variant.upper()}, {spec.classes} classes |
| weights | {weights} |
| engine | {result.build.manifest.verified}, {result.build.manifest.delivered} |
| a frame of {clip.name} to its class map | p50 {latency.p50:.1f} ms, p90 {latency.p90:.1f} ms |
| video | {result.run.frames} frames at {result.run.fps:.1f} frames/s, decoding to file |
{score}| peak memory of the process | {peak_rss_mib():.0f} MiB |
| machine | {platform.machine()}, Python {platform.python_version()} |

Files:

{files}
"""
