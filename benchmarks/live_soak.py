"""An hour of camera, as fast as it goes: does memory, a thread or a descriptor stay behind?

    python benchmarks/live_soak.py               # 54000 frames: an hour at 15 frames/s
    python benchmarks/live_soak.py --frames 3000

Everything at once: generated streets as a live source that is lost every thousand frames and
opened again, the shipped SegFormer-B0 on a small picture, the stabiliser and its score, a
recording, JSON lines, and the page with two viewers, one for its own stream and one for MJPEG.
What the process holds after the first minute of stream is compared with the end.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from live_process import Held, held  # noqa: E402

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import progress, say  # noqa: E402
from segformer_deploy.errors import MediaError  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.shipped import ONNX_FILE, shipped_file  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed  # noqa: E402
from segformer_deploy.video.live.paced import StreetsGrabber  # noqa: E402
from segformer_deploy.video.live.source import LiveSource  # noqa: E402
from segformer_deploy.workflow.run import Run, RunJob  # noqa: E402

SIZE, NETWORK = FrameSize(96, 128), FrameSize(64, 96)
STREAM_FPS = 15
RESULT = HERE / "results" / "live-soak.json"


class Unsteady(StreetsGrabber):
    """A camera that is lost after so many frames."""

    def __init__(self, seeds: itertools.count[int], frames: int, options: CaptureOptions) -> None:
        super().__init__(f"seed={next(seeds)}", options)
        self._until_lost = frames

    def read(self) -> Grabbed | None:
        self._until_lost -= 1
        if self._until_lost < 0:
            raise MediaError("the cable fell out", "a camera that stays")
        return super().read()


class Viewer(threading.Thread):
    """Takes what a page takes, and throws it away."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(name=f"viewer {path}", daemon=True)
        self._port, self._path = port, path
        self.bytes = 0

    def run(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self._port)
            connection.request("GET", self._path)
            answer = connection.getresponse()
            while piece := answer.read1(1 << 16):
                self.bytes += len(piece)
            connection.close()


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        data = soak(options.frames, options.lost_every, Path(folder))
    first, last = data["after_a_minute"], data["at_the_end"]
    say(
        f"{data['frames_in']} frames in, {data['shown']} shown, {data['reconnects']} reconnects, "
        f"{data['viewers_mb'][0]:.0f} and {data['viewers_mb'][1]:.0f} MB to the viewers\n"
        f"resident {first['rss_mb']} MB after the first minute of stream, {last['rss_mb']} at the "
        f"end: {data['growth_percent']:+.1f} %\n"
        f"threads {first['threads']} and {last['threads']}, descriptors {first['descriptors']} "
        f"and {last['descriptors']}; when all was closed {data['closed']}"
    )
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    say(f"{options.output} written")
    return 0


def soak(frames: int, lost_every: int, folder: Path) -> dict[str, Any]:
    model = shipped_file(ONNX_FILE)
    assert model is not None
    before = held()
    capture = CaptureOptions(size=SIZE, fps=Fraction(0))
    seeds = itertools.count(10_000_007)
    samples: list[dict[str, Any]] = []
    job = RunJob(
        sources=("test:",),
        outputs=(str(folder / "recording.mp4"),),
        json_lines=str(folder / "shares.jsonl"),
        view="0",
        stabilise=True,
        capture=capture,
        recordings=folder / "recordings",
    )
    with ExitStack() as stack:
        source = stack.enter_context(
            LiveSource("test:", partial(Unsteady, seeds, lost_every, capture), capture)
        )
        segment = stack.enter_context(Segmenter(model, size=NETWORK))
        run = stack.enter_context(Run(replace(job, max_frames=None), [source], segment))
        assert run.view is not None
        viewers = [Viewer(run.view.port, path) for path in ("/stream", "/stream.mjpg")]
        for viewer in viewers:
            viewer.start()
        with progress("streaming", frames) as advance:
            _go(run, frames, samples, advance)
    for viewer in viewers:
        viewer.join(5)
    closed = held()
    stats = run.stats()[0]
    first, last = samples[0], samples[-1]
    return {
        "what": "live_soak",
        "frames_in": stats.frames_in,
        "shown": stats.shown,
        "dropped": stats.dropped,
        "reconnects": stats.reconnects,
        "stream_minutes": stats.frames_in / STREAM_FPS / 60,
        "viewers_mb": [viewer.bytes / 1e6 for viewer in viewers],
        "before": before.to_dict(),
        "after_a_minute": first,
        "at_the_end": last,
        "closed": closed.to_dict(),
        "growth_percent": 100 * (last["rss_mb"] / first["rss_mb"] - 1),
        "samples": samples,
        "machine": machine_facts().to_dict(),
    }


def _go(run: Run, frames: int, samples: list[dict[str, Any]], advance: Any) -> None:
    """Run until so many frames have come in; look at the process once a minute of stream."""

    def look(_: object) -> None:
        stats = run.stats()[0]
        advance(stats.frames_in)
        if stats.frames_in >= (len(samples) + 1) * 60 * STREAM_FPS:
            now: Held = held()
            samples.append({"frames_in": stats.frames_in, **now.to_dict()})
        if stats.frames_in >= frames:
            raise KeyboardInterrupt

    run.go(look)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60 * 60 * STREAM_FPS)
    parser.add_argument("--lost-every", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
