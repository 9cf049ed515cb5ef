"""Memory and the control groups' limits: the smallest one on the way up holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.host.memory import memory_facts
from tests.host import trees

MIB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712


def test_an_orin_nanos_memory(tmp_path: Path) -> None:
    memory = memory_facts(trees.orin_nano(tmp_path))
    assert memory.total_bytes == 7802116 * 1024
    assert memory.available_bytes == 5985912 * 1024
    assert (memory.swap_bytes, memory.swap_free_bytes) == (3901056 * 1024, 3901055 * 1024)
    assert memory.limit_bytes is None
    assert memory.unknown == {"limit_bytes": "no control group above this process sets a limit"}
    assert memory.usable_bytes == memory.total_bytes


def test_version_2_with_a_limit_above(tmp_path: Path) -> None:
    trees.write(
        trees.laptop(tmp_path),
        {
            "proc/self/cgroup": "0::/system.slice/app.service/worker\n",
            "sys/fs/cgroup/system.slice/app.service/worker/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/app.service/memory.max": f"{128 * MIB}\n",
            "sys/fs/cgroup/system.slice/memory.max": f"{512 * MIB}\n",
            "sys/fs/cgroup/system.slice/other.service/memory.max": "4096\n",
        },
    )
    memory = memory_facts(tmp_path)
    assert memory.limit_bytes == memory.usable_bytes == 128 * MIB
    assert memory.unknown == {}


def test_version_1(tmp_path: Path) -> None:
    lines = "12:pids:/docker/x\n7:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n1:name=systemd:/\n"
    trees.write(
        trees.laptop(tmp_path),
        {
            "proc/self/cgroup": lines,
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{256 * MIB}\n",
            "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": f"{NO_LIMIT_V1}\n",
            "sys/fs/cgroup/pids/docker/x/memory.max": "1\n",
        },
    )
    assert memory_facts(tmp_path).limit_bytes == 256 * MIB


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    trees.write(
        trees.laptop(tmp_path),
        {
            "proc/self/cgroup": "5:memory:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT_V1}\n",
        },
    )
    assert memory_facts(tmp_path).limit_bytes is None


def test_inside_a_container_the_hosts_path_is_not_there(tmp_path: Path) -> None:
    trees.write(
        trees.laptop(tmp_path),
        {
            "proc/self/cgroup": "0::/../../host.slice/docker-x.scope\n",
            "sys/fs/cgroup/memory.max": f"{64 * MIB}\n",
        },
    )
    assert memory_facts(tmp_path).limit_bytes == 64 * MIB


def test_silence_has_its_reason(tmp_path: Path) -> None:
    memory = memory_facts(tmp_path)
    assert memory.usable_bytes is None
    assert set(memory.unknown) == {
        "total_bytes",
        "available_bytes",
        "swap_bytes",
        "swap_free_bytes",
        "limit_bytes",
    }
    trees.write(tmp_path, {"proc/meminfo": "MemTotal: many kB\n", "proc/self/cgroup": "odd\n"})
    memory = memory_facts(tmp_path)
    assert memory.total_bytes is None
    assert "otherwise than expected" in memory.unknown["total_bytes"]
    assert memory.unknown["swap_bytes"] == "/proc/meminfo has no SwapTotal"
    assert "otherwise than expected" in memory.unknown["limit_bytes"]


LIMIT = st.one_of(st.none(), st.integers(1, 1 << 50))


@given(st.lists(LIMIT, min_size=1, max_size=6), LIMIT, st.booleans())
def test_the_smallest_limit_above_us_holds(
    limits: list[int | None], stranger: int | None, first_version: bool
) -> None:
    mount = "sys/fs/cgroup/memory" if first_version else "sys/fs/cgroup"
    name = "memory.limit_in_bytes" if first_version else "memory.max"
    none = str(NO_LIMIT_V1) if first_version else "max"
    parts = [f"g{depth}" for depth in range(len(limits) - 1)]
    line = ("3:memory:/" if first_version else "0::/") + "/".join(parts) + "\n"
    files = {"proc/self/cgroup": line}
    for depth, limit in enumerate(limits):
        place = "/".join([mount, *parts[:depth], name])
        files[place] = f"{none if limit is None else limit}\n"
    # A group that is not above this process, whatever it says.
    files[f"{mount}/stranger/{name}"] = f"{none if stranger is None else stranger}\n"
    with tempfile.TemporaryDirectory() as folder:
        memory = memory_facts(trees.write(Path(folder), files))
    known = [limit for limit in limits if limit is not None]
    assert memory.limit_bytes == min(known, default=None)
    assert ("limit_bytes" in memory.unknown) == (not known)
