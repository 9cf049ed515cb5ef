"""What does a server in between cost? The same engine and frames by Triton and in this process.

::

    python benchmarks/serve.py                                 # minutes on two cores
    python benchmarks/serve.py --engine build/mine --frames FOLDER

It starts the real Triton server (Python backend, CPU; `SEGDEPLOY_TRITON` names the folder that the
wheel nvidia-pytriton was unpacked into) with the packaged engine, checks that each way gives the
class maps of the local `Segmenter` for all frames (and that NVIDIA's own client gets the same), and
then lets all ways take turns, round after round: HTTP and gRPC, with shared memory and without, by
one, four and eight clients at once, a thread each. The `Segmenter` in this process has a turn
before and after each of them; a ratio is to the mean of these two, so that what slows the machine
for a while slows both sides. Every class map that was timed is compared afterwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from segformer_deploy import __version__  # noqa: E402
from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import progress, say  # noqa: E402
from segformer_deploy.engine.cores import usable_cores  # noqa: E402
from segformer_deploy.errors import InputError, SegdeployError  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.serve.client import TritonSegmenter  # noqa: E402
from segformer_deploy.serve.repository import Request, package_for_triton  # noqa: E402
from segformer_deploy.shipped import ONNX_FILE, shipped_file  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import street_frame  # noqa: E402
from segformer_deploy.video.images import read_image  # noqa: E402
from segformer_deploy.workflow.build import BuildOptions, build_engine  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "serve.json"
STREETS, SIZE = 12, FrameSize(480, 640)
MODEL = "streets"
HERE = "this process"
LEAST_FRAMES, BASE_FRAMES = 8, 4
"""Of a turn, over all clients, each of whom has two at least; and of this process between turns."""
Map = np.ndarray[Any, Any]
Ask = Callable[[Map], Map]


@dataclass
class Way:
    """A way from a frame to its class map, and what was measured of it.

    Attributes:
        opens: makes a client of its own, which `close` ends.
        clients: at once.
        fps: frames per second of each round.
        ratios: of these, to this process's right before and after.
        ms: of each frame, over all rounds.
    """

    name: str
    clients: int
    opens: Callable[[], Any]
    fps: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    wrong: int = 0

    def round(self, frames: Sequence[Map], maps: Sequence[Map], each: int) -> None:
        """Each client has `each` frames segmented, beginning with a frame of its own."""
        asks = [self.opens() for _ in range(self.clients)]
        start = threading.Barrier(self.clients + 1)
        kept: list[list[tuple[int, Map, float]]] = [[] for _ in asks]

        def one(number: int) -> None:
            ask, mine = asks[number], kept[number]
            ask(frames[number % len(frames)])  # what the first frame costs is not timed
            start.wait()
            for step in range(each):
                index = (number + step) % len(frames)
                begun = time.perf_counter()
                found = ask(frames[index])
                mine.append((index, found, (time.perf_counter() - begun) * 1e3))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(self.clients)]
        for thread in threads:
            thread.start()
        start.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begun
        for ask in asks:
            ask.close()
        answers = [answer for mine in kept for answer in mine]
        if len(answers) != each * self.clients:
            raise RuntimeError(f"{self.name}: a client ended early")
        self.fps.append(len(answers) / seconds)
        self.ms += [ms for _, _, ms in answers]
        self.wrong += sum(not np.array_equal(found, maps[i]) for i, found, _ in answers)


class Local:
    """The Segmenter of this process, lent: closing it ends nothing."""

    def __init__(self, segment: Segmenter) -> None:
        self._segment = segment

    def __call__(self, frame: Map) -> Map:
        return self._segment(frame)

    def close(self) -> None:
        """Whoever opened it closes it."""


class Theirs:
    """NVIDIA's client, as its own examples use it."""

    def __init__(self, scheme: str, place: str) -> None:
        from importlib import import_module

        self._kind = import_module(f"tritonclient.{scheme}")
        self._client = self._kind.InferenceServerClient(place)

    def __call__(self, frame: Map) -> Map:
        given = self._kind.InferInput("frame", [1, *frame.shape], "UINT8")
        given.set_data_from_numpy(frame[None])
        found: Map = self._client.infer(MODEL, [given]).as_numpy("class_map")[0]
        return found

    def close(self) -> None:
        self._client.close()


def ways_of(server: Any, clients: Sequence[int]) -> list[Way]:
    places = {"http": f"http://{server.http}", "grpc": f"grpc://{server.grpc}"}
    ways = []
    for count in clients:
        for scheme, url in places.items():
            for shared in (False, True):
                name = f"{scheme}, {'shared memory' if shared else 'through the connection'}"

                def opens(url: str = url, shared: bool = shared) -> TritonSegmenter:
                    return TritonSegmenter(url, MODEL, shared_memory=shared)

                ways.append(Way(name, count, opens))
    return ways


def identical(ask: Any, frames: Sequence[Map], maps: Sequence[Map]) -> int:
    """How many frames have the local class map; the client is closed."""
    try:
        return sum(np.array_equal(ask(f), m) for f, m in zip(frames, maps, strict=True))
    finally:
        ask.close()


def checks(server: Any, frames: Sequence[Map], maps: Sequence[Map]) -> dict[str, Any]:
    """Per way: frames with exactly the local class map."""
    found: dict[str, Any] = {"frames": len(frames)}
    for scheme, place in (("http", server.http), ("grpc", server.grpc)):
        url = f"{scheme}://{place}"
        found[f"{scheme}, NVIDIA's client"] = identical(Theirs(scheme, place), frames, maps)
        options: dict[str, dict[str, Any]] = {
            "through the connection": {"shared_memory": False},
            "shared memory": {"shared_memory": True},
            "png": {"encoding": "png"},
        }
        for name, more in options.items():
            ask = TritonSegmenter(url, MODEL, **more)
            found[f"{scheme}, {name}"] = identical(ask, frames, maps)
        together = TritonSegmenter(url, MODEL)
        listed = together(list(frames))
        together.close()
        same = [np.array_equal(a, b) for a, b in zip(listed, maps, strict=True)]
        found[f"{scheme}, as one list"] = sum(same)
    return found


def frames_from(folder: Path | None) -> list[Map]:
    if folder is None:
        return [street_frame(seed, SIZE)[0] for seed in range(STREETS)]
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise InputError(f"{folder} holds no pictures", "PNG or JPEG files")
    return [read_image(path) for path in paths]


@contextmanager
def served(engine: Path | None) -> Iterator[tuple[Any, Path]]:
    """A running server with the engine, and the engine's folder."""
    from tests.serve.server import running_server

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if engine is None:
            shipped = shipped_file(ONNX_FILE)
            if shipped is None:
                raise InputError("this installation carries no model", "--engine FOLDER")
            engine = place / MODEL
            build_engine(shipped, BuildOptions(output=engine))
        package_for_triton(Request(engine, place / "models", MODEL))
        with running_server(place / "models", place / "server") as server:
            yield server, engine


def take_turns(
    base: Way, ways: Sequence[Way], frames: Sequence[Map], maps: Sequence[Map], rounds: int
) -> None:
    with progress("rounds", rounds * len(ways)) as advance:
        for number in range(rounds):
            shift = number * 5 % len(ways)  # who follows whom changes too
            base.round(frames, maps, BASE_FRAMES)
            for done, way in enumerate([*ways[shift:], *ways[:shift]]):
                way.round(frames, maps, max(2, LEAST_FRAMES // way.clients))
                base.round(frames, maps, BASE_FRAMES)
                way.ratios.append(2 * way.fps[-1] / sum(base.fps[-2:]))
                advance(number * len(ways) + done + 1)


def row_of(way: Way) -> dict[str, Any]:
    ratios = sorted(way.ratios) or [1.0]
    p50, p99 = (float(np.percentile(way.ms, q)) for q in (50, 99))
    return {
        "way": way.name,
        "clients": way.clients,
        "fps": round(statistics.median(way.fps), 2),
        "fps_ratio": round(statistics.median(ratios), 3),
        "fps_ratio_span": [round(ratios[0], 3), round(ratios[-1], 3)],
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "wrong": way.wrong,
        "samples_fps": [round(one, 3) for one in way.fps],
        "samples_ms": [round(one, 3) for one in way.ms],
    }


def markdown(row: dict[str, Any]) -> str:
    """As the client's page has it."""
    low, high = row["fps_ratio_span"]
    ratio = "1" if row["way"] == HERE else f"{row['fps_ratio']:.2f} ({low:.2f} to {high:.2f})"
    times = (f"{row['p50_ms']:.0f}", f"{row['p99_ms']:.0f}")
    return "| " + " | ".join((row["way"], str(row["clients"]), ratio, *times)) + " |"


def measured(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    frames = frames_from(options.frames)
    server, engine = stack.enter_context(served(options.engine))
    segment = stack.enter_context(Segmenter(engine))
    maps = [segment(frame) for frame in frames]
    same = checks(server, frames, maps)
    for name, count in same.items():
        say(f"{name}: {count}" + ("" if name == "frames" else f" of {len(frames)} identical"))
    base, ways = Way(HERE, 1, lambda: Local(segment)), ways_of(server, options.clients)
    take_turns(base, ways, frames, maps, options.rounds)
    statistics_of = server.statistics(MODEL)
    return {
        "benchmark": "serve",
        "version": __version__,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": asdict(machine_facts()),
        "task": {
            "frames": "generated streets" if options.frames is None else "pictures of a folder",
            "frame": list(frames[0].shape[:2]),
            "network": str(segment.network_size(FrameSize(*frames[0].shape[:2]))),
            "engine": segment.engine_name,
            "threads": segment.threads,
            "cores": usable_cores(),
            "rounds": options.rounds,
            "frames_of_a_turn": LEAST_FRAMES,
            "frames_of_this_process": BASE_FRAMES,
        },
        "server": {
            "name": "Triton, Python backend, CPU",
            "requests": statistics_of["inference_count"],
            "executions": statistics_of["execution_count"],
        },
        "identical": same,
        "results": [row_of(way) for way in (base, *ways)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", type=Path, help="engine folder; else the shipped model")
    parser.add_argument("--frames", type=Path, help="folder of pictures; else generated streets")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            data = measured(options, stack)
    except SegdeployError as error:
        say(f"error: {error}")
        return 1
    for row in data["results"]:
        say(markdown(row))
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    say(f"wrote {options.output}")
    whole = all(count == data["identical"]["frames"] for count in data["identical"].values())
    return 0 if whole and not any(row["wrong"] for row in data["results"]) else 1


if __name__ == "__main__":
    sys.exit(main())
