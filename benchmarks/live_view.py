"""Do ten viewers, one of whom stands still, slow the engine? And how often is a frame encoded?

    python benchmarks/live_view.py                   # eight rounds, four minutes
    python benchmarks/live_view.py --rounds 2 --seconds 5

A street clip plays as a live source at 30 frames/s; the shipped SegFormer-B0 segments it on all
cores, as fast as it can. Nobody looks, then one viewer, then ten of whom one reads nothing, in
turn, round after round: frames shown per second in each, and their ratio within each round. The
viewers are a process of their own on the same machine, so what they cost is in it too.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import say  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.shipped import ONNX_FILE, shipped_file  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import StreetVideo  # noqa: E402
from segformer_deploy.video.images import write_image  # noqa: E402
from segformer_deploy.video.live.grabber import CaptureOptions  # noqa: E402
from segformer_deploy.workflow.run import Run, RunJob, opened  # noqa: E402

SIZE = FrameSize(480, 640)
CASES = {"nobody": (0, 0), "one viewer": (1, 0), "ten viewers, one still": (9, 1)}
RESULT = HERE / "results" / "live-view.json"


def look(port: int, reading: int, still: int) -> None:
    """Be so many viewers, until standard input ends."""
    request = b"GET /stream?source=0 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
    chosen = selectors.DefaultSelector()
    chosen.register(sys.stdin, selectors.EVENT_READ)
    viewers = []
    for number in range(reading + still):
        viewer = socket.create_connection(("127.0.0.1", port))
        viewer.sendall(request)
        viewers.append(viewer)
        if number < reading:
            chosen.register(viewer, selectors.EVENT_READ)
    print("looking", flush=True)
    while True:
        for key, _ in chosen.select():
            if key.fileobj is sys.stdin:
                return
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.recv(1 << 18)


@contextmanager
def viewers(port: int, reading: int, still: int) -> Any:
    if not reading + still:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, __file__, "--look", str(port), str(reading), str(still)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "looking\n"
    try:
        yield
    finally:
        process.stdin.close()
        process.wait(10)


def measure(run: Run, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Shown and encoded in each case, round after round; then end the run."""
    assert run.view is not None
    found = []
    time.sleep(3.0)  # warm
    for number in range(rounds):
        # Each case begins a round as often: what drifts meets all alike.
        names = list(CASES)
        for name in names[number % 3 :] + names[: number % 3]:
            with viewers(run.view.port, *CASES[name]):
                time.sleep(1.0)
                shown, coded = run.stats()[0].shown, run.view.encodings[0]
                start = time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - start
                case = {
                    "round": number,
                    "case": name,
                    "shown": run.stats()[0].shown - shown,
                    "encoded": run.view.encodings[0] - coded,
                    "seconds": took,
                }
            say(f"{number} {name}: {case['shown'] / took:.2f} frames/s, {case['encoded']} encoded")
            found.append(case)
    return found


def main() -> int:
    options = _options()
    if options.look:
        look(*options.look)
        return 0
    model = shipped_file(ONNX_FILE)
    assert model is not None
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        frames = Path(folder) / "frames"
        frames.mkdir()
        drive = iter(StreetVideo(10_000_007, SIZE, 30))
        for number in range(60):
            write_image(frames / f"{number}.jpg", next(drive)[0])
        capture = CaptureOptions(live=True, loop=True, fps=Fraction(30))
        job = RunJob(sources=(str(frames),), view="0", capture=capture)
        sources = stack.enter_context(opened(job))
        segment = stack.enter_context(Segmenter(model))
        run = stack.enter_context(Run(job, sources, segment))
        cases: list[dict[str, Any]] = []

        def script() -> None:
            try:
                cases.extend(measure(run, options.rounds, options.seconds))
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=script)
        thread.start()
        run.go()
        thread.join()
    data = {"what": "live_view", "cases": cases, "machine": machine_facts().to_dict()}
    data["ratios"] = {name: ratios(cases, name) for name in list(CASES)[1:]}
    for name, values in data["ratios"].items():
        say(
            f"{name}: {statistics.median(values):.3f} times the frames/s of nobody looking "
            f"({min(values):.3f} to {max(values):.3f})"
        )
    for name in list(CASES)[1:]:
        share = [c["encoded"] / c["shown"] for c in cases if c["case"] == name]
        say(f"{name}: {statistics.median(share):.3f} encodings for each frame shown")
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    say(f"{options.output} written")
    return 0


def ratios(cases: list[dict[str, Any]], name: str) -> list[float]:
    """Frames per second with viewers over those without, in each round."""
    rate = {(c["round"], c["case"]): c["shown"] / c["seconds"] for c in cases}
    return [rate[number, name] / rate[number, "nobody"] for number, case in rate if case == name]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--look", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
