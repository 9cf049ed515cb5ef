"""Memory of this process, and the facts about the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segformer_deploy.bench.memory import (
    current_rss_mib,
    machine_facts,
    peak_rss_mib,
    reset_peak,
)
from segformer_deploy.engine.cores import usable_cores

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PEAK_AND_RESET = """
from segformer_deploy.bench.memory import current_rss_mib, peak_rss_mib, reset_peak
before = peak_rss_mib()
block = bytearray(64 << 20)
for place in range(0, len(block), 4096):
    block[place] = 1
held, now = peak_rss_mib(), current_rss_mib()
del block
after, rest = peak_rss_mib(), current_rss_mib()
print(before, held, now, after, rest, int(reset_peak()), peak_rss_mib())
"""


@needs_linux
def test_peak_grows_by_what_is_touched_stays_and_can_be_reset() -> None:
    # In a process of its own: the peak of this one depends on the tests before.
    answer = subprocess.run(
        [sys.executable, "-c", PEAK_AND_RESET], capture_output=True, text=True, check=True
    )
    before, held, now, after, rest, reset, fresh = map(float, answer.stdout.split())
    assert held - before == pytest.approx(64, abs=4)
    assert now == pytest.approx(held, abs=4)
    assert after == pytest.approx(held, abs=4)
    assert rest < held - 50
    if reset:
        assert fresh == pytest.approx(rest, abs=4)
    else:
        assert fresh == pytest.approx(held, abs=4)


@needs_linux
def test_peak_agrees_with_getrusage() -> None:
    import resource

    # getrusage never forgets, so it is an upper bound however often the peak was reset.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    now = current_rss_mib()
    assert now is not None
    assert now - 4 <= peak_rss_mib() <= most + 4


def test_without_proc_getrusage_answers(tmp_path: Path) -> None:
    import resource

    assert current_rss_mib(tmp_path) is None
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    assert peak_rss_mib(tmp_path) == pytest.approx(most, abs=1)
    assert reset_peak(tmp_path) is False


def test_status_is_read_as_kib(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.mkdir()
    (own / "status").write_text("Name:\tpython\nVmHWM:\t  3072 kB\nVmRSS:\t  1536 kB\n")
    assert peak_rss_mib(tmp_path) == 3.0
    assert current_rss_mib(tmp_path) == 1.5


def _machine(tmp_path: Path, cpuinfo: str = "", groups: str = "") -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "cpuinfo").write_text(cpuinfo)
    (proc / "meminfo").write_text("MemTotal:       2097152 kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    cgroup.mkdir()
    return proc, cgroup


def test_names_of_processors(tmp_path: Path) -> None:
    x86, _ = _machine(tmp_path / "x86", "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert machine_facts(x86).cpu == "Some CPU @ 2 GHz"
    arm, _ = _machine(tmp_path / "arm", "processor\t: 0\nCPU part\t: 0xd42\n")
    (arm / "device-tree").mkdir()
    (arm / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert machine_facts(arm).cpu == "NVIDIA Jetson Orin Nano"
    other, _ = _machine(tmp_path / "other", "processor\t: 0\n")
    assert machine_facts(other).cpu
    assert machine_facts(other).memory_mib == 2048


def test_the_smallest_limit_above_us_counts_in_version_2(tmp_path: Path) -> None:
    proc, cgroup = _machine(tmp_path, groups="0::/user/app\n")
    inner = cgroup / "user" / "app"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert machine_facts(proc, cgroup).memory_limit_mib is None
    (cgroup / "user" / "memory.max").write_text(f"{256 << 20}\n")
    assert machine_facts(proc, cgroup).memory_limit_mib == 256
    (inner / "memory.max").write_text(f"{128 << 20}\n")
    assert machine_facts(proc, cgroup).memory_limit_mib == 128


def test_limits_in_version_1(tmp_path: Path) -> None:
    proc, cgroup = _machine(tmp_path, groups="5:cpu:/x\n4:memory:/docker/1\n0::/\n")
    memory = cgroup / "memory"
    memory.mkdir()
    # A container sees its own group as the root, whatever its path says.
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine_facts(proc, cgroup).memory_limit_mib is None
    (memory / "memory.limit_in_bytes").write_text(f"{64 << 20}\n")
    assert machine_facts(proc, cgroup).memory_limit_mib == 64


def test_facts_of_this_machine() -> None:
    import numpy as np

    facts = machine_facts().to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["numpy"] == np.__version__
    assert "opencv" in facts["versions"]
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)


@needs_linux
def test_cores_follow_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)
