"""Thirty clips on three nodes, of which a worker and then a node are lost: each frame once."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.batch.folder import STATE
from segformer_deploy.batch.ray_pool import RayPool
from tests.batch.batches import bytes_of, go, job_of
from tests.batch.films import film
from tests.batch.test_ray_pool import _lose, cluster  # noqa: F401

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
CLIPS, FRAMES = 30, 45
WIDE = (64, 128)


def writing_worker(nodes: Any) -> int:
    """A process on these nodes that has an unfinished chunk open."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for node in nodes:
            raylet = node.all_processes["raylet"][0].process.pid
            for path in Path(f"/proc/{raylet}/task").glob("*/children"):
                for pid in map(int, path.read_text().split()):
                    if any(".partial" in name for name in open_files(pid)):
                        return pid
    raise AssertionError("no worker writes")


def open_files(pid: int) -> list[str]:
    found = []
    with suppress(OSError):  # it may end while we look
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.append(str(link.readlink()))
    return found


def test_a_worker_and_a_node_are_lost(tmp_path: Path, cluster: Any) -> None:  # noqa: F811
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(CLIPS):
        film(archive / f"clip{number}.mp4", FRAMES, size=WIDE)
    assert go(job_of(tmp_path, archive, tmp_path / "alone", masks=True)).complete
    killed: list[str] = []

    def lose(step: str, done: int, total: int) -> None:
        if step == "segmenting" and done > total * 0.2 and not killed:
            os.kill(writing_worker(cluster.list_all_nodes()), signal.SIGKILL)
            killed.append("worker")
        if step == "segmenting" and done > total * 0.5 and len(killed) == 1:
            _lose(cluster, list(cluster.worker_nodes)[-1])
            killed.append("node")

    out = tmp_path / "out"
    with RayPool(cluster.address, num_cpus=1) as pool:
        assert pool.workers == 3
        report = go(job_of(tmp_path, archive, out, masks=True), pool, lose)
        assert killed == ["worker", "node"]
        assert report.complete, [item.error for item in report.items if item.error]
        assert report.retries >= 1
        assert report.count("done") == CLIPS
        again = go(job_of(tmp_path, archive, out, masks=True), pool)
    assert (again.count("already"), again.segmented) == (CLIPS, 0)
    ours, alone = bytes_of(out), bytes_of(tmp_path / "alone")
    masks = [name for name in alone if name.endswith(".png")]
    assert len(masks) == CLIPS * FRAMES
    assert set(ours) == set(alone)
    assert [name for name in masks if ours[name] != alone[name]] == []
    assert not [path for path in out.rglob("*") if "partial" in path.name]
    assert not list((out / STATE / "chunks").iterdir())
