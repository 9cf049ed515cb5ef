"""Does a batch on a Ray cluster lose, double or change a frame when workers, nodes, drivers die?

    python benchmarks/batch_faults.py                    # 30 clips, ten interruptions
    python benchmarks/batch_faults.py --clips 6 --interruptions 2

A local Ray cluster of three nodes (processes of this machine, one logical processor each) segments
drawn streets with the shipped model. First undisturbed, with 1, 2 and 3 workers. Then a worker's
process and later a whole node are killed (SIGKILL) in the middle. Then the driver itself is killed
at random points, and the same command is given again each time. Each output is held against the
masks of `segdeploy run`'s code, one process, one clip after the other. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import av  # noqa: E402
from batch_faults_check import checked, is_whole, same_bytes, segment_alone  # noqa: E402
from batch_faults_driver import CHUNK_SECONDS, ENGINE_SIZE  # noqa: E402
from batch_faults_nodes import Nodes, three_nodes  # noqa: E402

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import say  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import StreetVideo  # noqa: E402

RESULT = HERE / "results" / "batch-faults.json"
SIZE, FPS = FrameSize(192, 288), 10
SEED = 20_000_001
MOST_KILL_DELAY_S = 0.5


@dataclass
class Call:
    """One call of the driver: what it said, and how it ended.

    Attributes:
        progress: (seconds on the driver's clock, frames done, frames in all) while segmenting.
        report: its last word; None where it was killed before.
    """

    progress: list[tuple[float, int, int]] = field(default_factory=list)
    report: dict[str, Any] | None = None

    def frames_per_second(self) -> float:
        """From the first finished chunk to the last: without Ray's start and the engines'."""
        first, last = self.progress[1], self.progress[-1]
        return (last[1] - first[1]) / (last[0] - first[0])


def clips_in(folder: Path, count: int) -> list[Path]:
    """Drives of 2.4 to 3.9 s, a key frame every 0.4 s, B-frames between."""
    folder.mkdir()
    paths = []
    for number in range(count):
        path = folder / f"clip{number:02d}.mp4"
        drive = iter(StreetVideo(SEED + number, SIZE, FPS))
        with av.open(str(path), "w") as file:
            options = {"crf": "20", "g": "4", "bf": "2"}
            stream: Any = file.add_stream("libx264", rate=Fraction(FPS), options=options)
            stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
            for _ in range(24 + number % 16):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(next(drive)[0], format="bgr24")))
            file.mux(stream.encode())
        paths.append(path)
    return paths


def drive(
    words: list[str], watch: Callable[[subprocess.Popen[str], int, int], None] | None = None
) -> Call:
    """Run the driver; `watch` is called with (process, frames done, frames in all)."""
    call = Call()
    command = [sys.executable, str(HERE / "batch_faults_driver.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            call.report = said.get("report")
            if said.get("step") == "segmenting":
                call.progress.append((said["at"], said["done"], said["total"]))
                if watch is not None:
                    watch(process, said["done"], said["total"])
    if process.returncode and process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the driver ended with {process.returncode}")
    return call


def with_faults(nodes: Nodes, words: list[str]) -> tuple[Call, dict[str, Any]]:
    """A call in which a worker dies after a quarter of the frames and a node after a half."""
    told: dict[str, Any] = {}

    def watch(process: subprocess.Popen[str], done: int, total: int) -> None:
        if "worker_killed_at" not in told and done >= total / 4 and nodes.kill_worker():
            told["worker_killed_at"] = done
        elif (
            "node_killed_at" not in told
            and "worker_killed_at" in told
            and done >= total / 2
            and nodes.kill_node()
        ):
            told["node_killed_at"] = done

    call = drive(words, watch)
    if len(told) < 2:
        raise SystemExit(f"only {told}: nothing was killed in the middle")
    return call, told


def interrupted(words: list[str], count: int, frames: int, dice: random.Random) -> dict[str, Any]:
    """Kill the driver at `count` random points, call it again each time; then to the end."""
    points = sorted(dice.randrange(frames) for _ in range(count))
    killed_at: list[int] = []
    for point in points:
        delay = dice.uniform(0, MOST_KILL_DELAY_S)
        last = 0

        def watch(process: subprocess.Popen[str], done: int, total: int) -> None:
            nonlocal last
            last = frames - total + done  # videos that an earlier call has done are not in total
            if last >= point and process.poll() is None:  # noqa: B023
                time.sleep(delay)  # noqa: B023
                process.kill()

        call = drive(words, watch)
        if call.report is not None:
            raise SystemExit(f"done before it was killed at frame {point}: {call.report}")
        killed_at.append(last)
        say(f"  killed at {last} of {frames} frames")
    call = drive(words)
    assert call.report is not None
    return {"points": points, "last_heard": killed_at, "last_call": call.report}


def measured(work: Path, count: int, interruptions: int, seed: int) -> dict[str, Any]:
    """All of it; the result's JSON."""
    clips = clips_in(work / "clips", count)
    source = str(work / "clips")
    say("reference: one process, one clip after the other")
    began = time.perf_counter()
    frames = segment_alone(clips, work / "alone")
    result: dict[str, Any] = {
        "clips": count,
        "frames": frames,
        "alone_seconds": round(time.perf_counter() - began, 2),
    }

    def verdict(output: Path) -> dict[str, Any]:
        found = checked(output, work / "alone", clips)
        return {**found, "whole": is_whole(found, count)}

    with three_nodes(HERE.parent) as nodes:

        def words(output: Path, *more: str) -> list[str]:
            return [source, str(output), "--address", nodes.address, *more]

        result["workers"] = []
        for workers in (1, 2, 3):
            output = work / f"workers{workers}"
            call = drive(words(output, "--workers", str(workers)))
            assert call.report is not None
            told = {
                "workers": workers,
                "seconds": round(call.report["seconds"], 2),
                "frames_per_second": round(call.frames_per_second(), 2),
                "load_average": round(os.getloadavg()[0], 2),
                "output": verdict(output),
            }
            result["workers"].append(told)
            say(f"{workers} workers: {told}")
        plain = work / "workers3"

        output = work / "faults"
        call, told = with_faults(nodes, words(output))
        result["faults"] = {**told, "report": call.report, "output": verdict(output)}
        result["faults"]["same_bytes_as_undisturbed"] = same_bytes(output, plain)
        say(f"a worker and a node killed: {result['faults']}")

        before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
        again = drive(words(output))
        after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
        result["second_call"] = {"report": again.report, "nothing_written": before == after}
        say(f"second call: {result['second_call']}")

        nodes.add()
        output = work / "interrupted"
        say(f"{interruptions} interruptions")
        result["interrupted"] = interrupted(
            words(output), interruptions, frames, random.Random(seed)
        )
        result["interrupted"]["output"] = verdict(output)
        result["interrupted"]["same_bytes_as_undisturbed"] = same_bytes(output, plain)
        say(f"interrupted: {result['interrupted']}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--interruptions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        result = measured(Path(work), options.clips, options.interruptions, options.seed)
    outputs = [*result["workers"], result["faults"], result["interrupted"]]
    result = {
        "format": 1,
        "what": "nodes are processes of one machine; the work is bound by its cores",
        "engine": f"shipped SegFormer-B0 at {ENGINE_SIZE}, ONNX Runtime, one thread each",
        "chunk_seconds": CHUNK_SECONDS,
        "all_whole": all(one["output"]["whole"] for one in outputs),
        **result,
        "machine": machine_facts().to_dict(),
    }
    write_text(options.output, json.dumps(result, indent=1) + "\n")
    say(f"{options.output}: {'all outputs whole' if result['all_whole'] else 'NOT WHOLE'}")
    raise SystemExit(0 if result["all_whole"] else 1)


if __name__ == "__main__":
    main()
