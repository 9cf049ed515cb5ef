"""Killed anywhere, a batch goes on where it was: the same results, each frame once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.batch.folder import STATE
from segformer_deploy.batch.pool import LocalPool
from tests.batch.batches import bytes_of, go, job_of
from tests.batch.films import film
from tests.video.makers import read_times

WIDE = (64, 128)  # of these x264 makes the same bytes every time

PROGRAM = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from tests.batch.batches import go, job_of

    if __name__ == "__main__":
        folder, archive, out = map(Path, sys.argv[1:])
        print("ready", flush=True)
        report = go(job_of(folder, archive, out, masks=True))
        print("complete" if report.complete else report.to_dict(), flush=True)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    film(folder / "a.mp4", 60, size=WIDE)
    film(folder / "b.mkv", 45, size=WIDE)
    film(folder / "c.h264", 20, size=WIDE)
    return folder


def begin(folder: Path, archive: Path, out: Path) -> subprocess.Popen[str]:
    """The batch in a process of its own, which has loaded all it needs."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(root=str(Path(__file__).parents[2])))
    command = [sys.executable, str(script), str(folder), str(archive), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_at_random_points(tmp_path: Path, archive: Path) -> None:
    right = tmp_path / "right"
    start = time.perf_counter()
    assert go(job_of(tmp_path, archive, right, masks=True)).complete
    needed = time.perf_counter() - start
    rng = np.random.default_rng()
    out, killed, seen = tmp_path / "out", 0, set()
    for _ in range(10):
        process = begin(tmp_path, archive, out)
        time.sleep(float(rng.uniform(0.1, 1.0)) * max(0.4, needed))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        # What is there under its final name is whole, at any time.
        for result in (path for path in out.glob("*") if not path.name.startswith(".")):
            assert bytes_of(result) == bytes_of(right / result.name)
            seen.add(result.name)
        finished = list((out / STATE / "chunks").glob("*/[0-9]*"))
        seen.update(path.name for path in finished)
    assert killed
    process = begin(tmp_path, archive, out)
    assert process.communicate()[0] == "complete\n"
    assert bytes_of(out) == bytes_of(right)
    assert not [path for path in out.rglob("*") if "partial" in path.name or ".lock" in path.name]
    assert len(read_times(out / "a.mp4" / "overlay.mp4")) == 60
    report = go(job_of(tmp_path, archive, out, masks=True))
    assert (report.count("already"), report.segmented) == (3, 0)


def test_several_processes_make_the_same(tmp_path: Path, archive: Path) -> None:
    assert go(job_of(tmp_path, archive, tmp_path / "one", masks=True)).complete
    with LocalPool(2) as pool:
        report = go(job_of(tmp_path, archive, tmp_path / "two", masks=True), pool)
    assert report.complete
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, archive: Path) -> None:
    assert go(job_of(tmp_path, archive, tmp_path / "one", masks=True)).complete
    killed: list[int] = []

    def kill(step: str, done: int, total: int) -> None:
        if step == "segmenting" and done and not killed:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    with LocalPool(1) as pool:
        report = go(job_of(tmp_path, archive, tmp_path / "two", masks=True), pool, kill)
    assert killed
    assert report.complete
    assert report.retries == 1
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
    assert not [path for path in (tmp_path / "two").rglob("*") if "partial" in path.name]
