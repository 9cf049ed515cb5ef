"""How old is what a slow engine shows of a fast camera, and how fast is a lost camera back?

    python benchmarks/live_latency.py                    # five minutes, then ten restarts
    python benchmarks/live_latency.py --minutes 0.2 --restarts 2

A GStreamer RTSP server in a process of its own plays a 30 frames/s street and writes the time into
each picture as it is encoded. The shipped SegFormer-B0 segments it, slowed to 8 frames/s. What
reaches the sink is held against the clock: encoder, network, decoder, waiting, engine and drawing
together. Then the server is killed (SIGKILL) and started again, over and over.

Needs GStreamer's RTSP server and a Python that has PyGObject (Debian:
gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import numpy as np  # noqa: E402
from live_process import held  # noqa: E402

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import say  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.shipped import ONNX_FILE, shipped_file  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import StreetVideo  # noqa: E402
from segformer_deploy.video.frame import Frame, Picture  # noqa: E402
from segformer_deploy.video.live.meter import Meter  # noqa: E402
from segformer_deploy.video.loop import Stream, run_streams  # noqa: E402
from segformer_deploy.video.overlay import Overlay  # noqa: E402
from segformer_deploy.video.sink_base import Sink  # noqa: E402
from segformer_deploy.video.source import open_source  # noqa: E402
from segformer_deploy.video.yuv import yuv_from_bgr  # noqa: E402
from tests.video.live.time_code import now_ms, read_stamp  # noqa: E402

SIZE = FrameSize(480, 640)
CLIP_FRAMES, CAMERA_FPS = 150, 30
RESULT = HERE / "results" / "live-latency.json"


class Server:
    """The camera: a process that can be killed and started again on its port."""

    def __init__(self, python: str, clip: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [python, str(HERE / "stream_server.py"), str(clip)]
        self._command += ["--width", str(SIZE.width), "--height", str(SIZE.height)]
        self._command += ["--frames", str(CLIP_FRAMES)]
        self._command += ["--port", str(self.port), "--fps", str(CAMERA_FPS)]
        self.url = f"rtsp://127.0.0.1:{self.port}/clip"

    def start(self) -> float:
        """Start it; when it was ready, `time.monotonic()` seconds."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready"):
            raise SystemExit(f"the server did not start: {line}")
        return time.monotonic()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


class Slowed:
    """A segmenter that takes at least so long for a frame."""

    def __init__(self, segment: Segmenter, fps: float) -> None:
        self._segment, self._least_s = segment, 1 / fps

    def __call__(self, frame: Picture) -> Any:
        end = time.monotonic() + self._least_s
        class_map = self._segment(frame)
        time.sleep(max(0.0, end - time.monotonic()))
        return class_map


class Clock(Sink):
    """The display: how old each picture is when it gets here."""

    def __init__(self) -> None:
        super().__init__(Path("display"))
        self.ages: list[tuple[float, float]] = []
        self.unread = 0
        self.came = threading.Event()

    def write(self, frame: Frame, picture: Picture) -> None:
        stamp = read_stamp(frame.image)
        if stamp is None:
            self.unread += 1
        else:
            self.ages.append((time.monotonic(), float(now_ms() - stamp)))
        self.came.set()


@dataclass
class Script:
    """What happens to the camera while the run goes on."""

    server: Server
    clock: Clock
    meter: Meter
    minutes: float
    restarts: int
    samples: list[dict[str, Any]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    error: BaseException | None = None

    def play(self) -> None:
        try:
            self._watch(self.minutes * 60)
            for number in range(self.restarts):
                self._restart(down_s=0.5 + 0.25 * number)
                self._watch(3.0)
        except BaseException as error:
            self.error = error
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: the run ends in good order

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(10.0, left))
            stats = self.meter.snapshot()
            assert stats.frames_in == stats.shown + stats.dropped + stats.pending
            recent = [age for when, age in self.clock.ages if when > time.monotonic() - 10]
            sample = {
                "seconds": round(stats.seconds, 1),
                **held().to_dict(),
                "frames_in": stats.frames_in,
                "shown": stats.shown,
                "dropped": stats.dropped,
                "pending": stats.pending,
                "age_ms_max": max(recent, default=None),
            }
            self.samples.append(sample)
            say(" ".join(f"{name}={value}" for name, value in sample.items()))

    def _restart(self, down_s: float) -> None:
        self.server.kill()
        time.sleep(down_s)
        ready = self.server.start()
        self.clock.came.clear()
        # What was under way when it was killed does not count as back.
        while not (self.clock.came.wait(30) and self.clock.ages[-1][0] > ready):
            if time.monotonic() - ready > 30:
                raise SystemExit("not back after 30 s")
            self.clock.came.clear()
        self.recoveries.append(self.clock.ages[-1][0] - ready)
        say(f"restart after {down_s:.2f} s down: back in {self.recoveries[-1]:.2f} s")


def main() -> int:
    options = _options()
    model = shipped_file(ONNX_FILE)
    assert model is not None
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.i420"
        _write_clip(clip)
        server = Server(options.python, clip)
        server.start()
        try:
            data = measure(server, model, options)
        finally:
            server.kill()
    _print(data)
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    say(f"{options.output} written")
    return 0


def measure(server: Server, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    source = open_source(server.url)
    with Segmenter(model) as segment:
        clock, spec = Clock(), segment.spec
        stream = Stream(source, (clock,), overlay=Overlay(spec.palette, spec.class_names))
        script = Script(server, clock, stream.meter, options.minutes, options.restarts)
        actor = threading.Thread(target=script.play, name="script")
        actor.start()
        report = run_streams([stream], Slowed(segment, options.engine_fps))[0]
        actor.join()
    if script.error is not None:
        raise script.error
    assert report.live is not None
    ages = np.array([age for _, age in clock.ages])
    steady = len([1 for s in script.samples if s["seconds"] <= options.minutes * 60 + 1])
    return {
        "what": "live_latency",
        "camera_fps": CAMERA_FPS,
        "engine_fps": options.engine_fps,
        "minutes": options.minutes,
        "age_ms": {
            "p50": float(np.percentile(ages, 50)),
            "p99": float(np.percentile(ages, 99)),
            "max": float(ages.max()),
            "last_minute_p50": _late(clock, script, steady, 50),
            "last_minute_p99": _late(clock, script, steady, 99),
            "last_minute_max": _late(clock, script, steady, 100),
        },
        "unread_stamps": clock.unread,
        "recoveries_s": [round(value, 3) for value in script.recoveries],
        "live": report.live.to_dict(),
        "samples": script.samples,
        "machine": machine_facts().to_dict(),
        "raw_age_ms": [age for _, age in clock.ages],
    }


def _late(clock: Clock, script: Script, steady: int, percent: float) -> float:
    """Of the last minute before the first restart."""
    end = clock.ages[0][0] + script.samples[max(0, steady - 1)]["seconds"]
    return float(np.percentile([a for t, a in clock.ages if end - 60 <= t <= end], percent))


def _print(data: dict[str, Any]) -> None:
    age, live = data["age_ms"], data["live"]
    frame_ms = 1000 / data["engine_fps"]
    say(
        f"picture's age at the sink: p50 {age['p50']:.0f} ms, p99 {age['p99']:.0f}, max "
        f"{age['max']:.0f}; in the last minute before the restarts p50 "
        f"{age['last_minute_p50']:.0f}, p99 {age['last_minute_p99']:.0f}, max "
        f"{age['last_minute_max']:.0f} (two frames of the engine: {2 * frame_ms:.0f})"
    )
    say(
        f"capture to sink, as the run counts it: p50 {live['p50_ms']:.0f} ms, p99 "
        f"{live['p99_ms']:.0f}; in {live['frames_in']} = shown {live['shown']} + dropped "
        f"{live['dropped']} + pending {live['pending']}"
    )
    if data["recoveries_s"]:
        times = " ".join(f"{value:.2f}" for value in data["recoveries_s"])
        say(f"back after a restart of the server, s: {times}; reconnects {live['reconnects']}")
    first, last = data["samples"][0], data["samples"][-1]
    say(f"held at first {first}\nheld at last  {last}")


def _write_clip(path: Path) -> None:
    drive = iter(StreetVideo(10_000_007, SIZE, CAMERA_FPS))
    with path.open("wb") as file:
        for _ in range(CLIP_FRAMES):
            file.write(yuv_from_bgr(next(drive)[0]).tobytes())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--engine-fps", type=float, default=8.0)
    parser.add_argument("--python", default="/usr/bin/python3", help="one that has PyGObject")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
