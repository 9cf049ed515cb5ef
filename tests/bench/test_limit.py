"""A limit's control group: made where it may be, joined, read and always removed.

The trees below mimic what Linux shows; one test at the end asks a real kernel, where the reader
says that it may (it makes a control group under this process's own, which is not for every
place: SEGDEPLOY_TEST_CGROUPS=1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segformer_deploy.bench.limit import (
    MIB,
    Group,
    NoGroup,
    bytes_from_text,
    memory_group,
    places,
)
from segformer_deploy.errors import InputError

V1 = {
    "cgroup.procs": "",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory.max_usage_in_bytes": "5242880\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}
V2 = {
    "cgroup.procs": "",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.peak": "7340032\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 0\noom_group_kill 0\n",
}


def filled(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def maker(files: dict[str, str]) -> Callable[[Path], None]:
    """As the kernel does: a new group has its files."""

    def make(folder: Path) -> None:
        folder.mkdir()
        filled(folder, files)

    return make


def version_1(root: Path, own: str = "/app/one") -> Path:
    filled(root / "proc/self", {"cgroup": f"9:name=systemd:/\n4:memory:{own}\n0::/\n"})
    mount = root / "sys/fs/cgroup/memory"
    filled(mount, V1)
    filled(mount / own.lstrip("/"), V1)
    return mount / own.lstrip("/")


def version_2(root: Path, own: str = "/user.slice/one") -> Path:
    filled(root / "proc/self", {"cgroup": f"0::{own}\n"})
    mount = root / "sys/fs/cgroup"
    filled(mount, {"cgroup.controllers": "cpu io memory pids\n", "cgroup.subtree_control": ""})
    folder = mount / own.lstrip("/")
    filled(folder, {**V2, "cgroup.controllers": "memory\n", "cgroup.subtree_control": ""})
    return folder


def groups_in(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.name.startswith("segdeploy-")]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128M", 128 * MIB),
        ("1.5g", 3 * 512 * MIB),
        ("64 KiB", 65536),
        ("256MB", 256 * MIB),
        ("4096", 4096),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_from_text(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "0", "0.1", "12T", "1e3", "128M or so", "9" * 400]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="a memory size of"):
        bytes_from_text(text)


def test_version_1_under_the_own_group(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    with memory_group(64 * MIB, tmp_path, maker(V1), shutil.rmtree) as group:
        assert isinstance(group, Group)
        assert (group.version, group.folder.parent) == (1, own)
        assert (group.folder / "memory.limit_in_bytes").read_text().startswith(str(64 * MIB))
        assert (group.folder / "memory.memsw.limit_in_bytes").read_text().startswith(str(64 * MIB))
        assert (group.peak_bytes, group.oom_kills, group.notes) == (5 * MIB, 0, ())
        (group.folder / "memory.oom_control").write_text("under_oom 0\noom_kill 2\n")
        assert group.oom_kills == 2
    assert groups_in(own) == []


def test_version_2_under_the_own_group(tmp_path: Path) -> None:
    own = version_2(tmp_path)
    with memory_group(64 * MIB, tmp_path, maker(V2), shutil.rmtree) as group:
        assert isinstance(group, Group)
        assert (group.version, group.folder.parent) == (2, own)
        assert (group.folder / "memory.max").read_text().startswith(str(64 * MIB))
        assert (group.folder / "memory.swap.max").read_text().startswith("0")
        assert (group.peak_bytes, group.oom_kills) == (7 * MIB, 0)
        (group.folder / "memory.events").write_text("oom 1\noom_kill 1\n")
        assert group.oom_kills == 1
    assert groups_in(own) == []


def test_both_versions_at_once_take_the_one_that_has_memory(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    filled(tmp_path / "sys/fs/cgroup/unified", {"cgroup.controllers": "\n"})
    assert places(tmp_path)[0] == (1, own)
    assert {version for version, _ in places(tmp_path)} == {1}


def test_version_1_never_goes_up(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    assert places(tmp_path) == [(1, own)]
    made = []

    def make(folder: Path) -> None:
        made.append(folder.parent)
        raise PermissionError(13, "Permission denied", str(folder))

    with memory_group(MIB, tmp_path, make) as group:
        assert isinstance(group, NoGroup)
    assert made == [own]


def test_a_container_that_sees_only_its_own_part(tmp_path: Path) -> None:
    version_2(tmp_path)
    filled(tmp_path / "proc/self", {"cgroup": "0::/docker/0123\n"})
    assert places(tmp_path) == [(2, tmp_path / "sys/fs/cgroup")]


def test_further_up_where_the_own_group_cannot_hand_down(tmp_path: Path) -> None:
    version_2(tmp_path)
    top = tmp_path / "sys/fs/cgroup"

    def make(folder: Path) -> None:
        if folder.parent != top:
            raise PermissionError(13, "Permission denied", str(folder))
        maker(V2)(folder)

    with memory_group(MIB, tmp_path, make, shutil.rmtree) as group:
        assert isinstance(group, Group)
        assert group.folder.parent == top


def test_never_out_of_a_limit_that_holds_this_process(tmp_path: Path) -> None:
    own = version_2(tmp_path)
    (own.parent / "memory.max").write_text("1073741824\n")
    assert places(tmp_path) == [(2, own), (2, own.parent)]
    (own / "memory.max").write_text("536870912\n")
    assert places(tmp_path) == [(2, own)]

    def make(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with memory_group(MIB, tmp_path, make) as group:
        assert isinstance(group, NoGroup)
        assert "Permission denied" in group.why


def test_a_controller_that_is_handed_down_is_taken_back(tmp_path: Path) -> None:
    own = version_2(tmp_path)
    control = own / "cgroup.subtree_control"

    def make(folder: Path) -> None:
        # The kernel gives the files when the controller is written: here they come late.
        folder.mkdir()
        filled(folder, {name: text for name, text in V2.items() if name != "memory.max"})

    with memory_group(MIB, tmp_path, make, shutil.rmtree) as group:
        assert isinstance(group, NoGroup)  # memory.max never came, in either place
        assert "memory.max" in group.why
    assert control.read_text() == "-memory"
    assert groups_in(own) == groups_in(tmp_path / "sys/fs/cgroup") == []


def test_a_controller_that_another_run_needs_stays(tmp_path: Path) -> None:
    own = version_2(tmp_path)
    control = own / "cgroup.subtree_control"
    made = []

    def make(folder: Path) -> None:
        # The second group's limit comes with the controller that the first has handed down.
        folder.mkdir()
        late = {} if made else {"memory.max": ""}
        made.append(folder)
        filled(folder, {name: text for name, text in V2.items() if name not in late})

    with memory_group(MIB, tmp_path, maker(V2), shutil.rmtree) as other:
        assert isinstance(other, Group)
        with memory_group(MIB, tmp_path, make, shutil.rmtree):
            pass
        assert control.read_text() == "+memory"
    assert groups_in(own) == []


def test_a_limit_that_went_away_holds_no_more(tmp_path: Path) -> None:
    version_2(tmp_path)
    with memory_group(5 * MIB, tmp_path, maker(V2), shutil.rmtree) as group:
        assert isinstance(group, Group)
        assert group.holds
        (group.folder / "memory.max").write_text("max\n")
        assert not group.holds
        (group.folder / "memory.max").unlink()
        assert not group.holds


def test_a_kernel_that_counts_no_swap(tmp_path: Path) -> None:
    version_1(tmp_path)
    files = {name: text for name, text in V1.items() if "memsw" not in name}
    with memory_group(MIB, tmp_path, maker(files), shutil.rmtree) as group:
        assert isinstance(group, Group)
        assert "no swap" in group.notes[0]


def test_no_control_groups_has_its_reason(tmp_path: Path) -> None:
    with memory_group(MIB, tmp_path) as group:
        assert isinstance(group, NoGroup)
        assert "no control groups" in group.why
        assert group.command(["x", "y"]) == ["x", "y"]


def test_removed_whatever_happens(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with memory_group(MIB, tmp_path, maker(V1), shutil.rmtree):
            raise KeyboardInterrupt
    assert groups_in(own) == []


def test_what_still_runs_in_the_group_is_ended(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    with memory_group(MIB, tmp_path, maker(V1), shutil.rmtree) as group:
        assert isinstance(group, Group)
        left = subprocess.Popen(group.command(["sleep", "60"]))
        while not (group.folder / "cgroup.procs").read_text().strip():
            pass
    assert left.wait(timeout=5) == -9
    assert groups_in(own) == []


def test_groups_of_killed_runs_are_cleared_away(tmp_path: Path) -> None:
    own = version_1(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    filled(own / f"segdeploy-{ended.pid}-0123abcd", V1)
    filled(own / f"segdeploy-{os.getppid()}-0123abcd", V1)
    filled(own / "segdeploy-mine", V1)
    with memory_group(MIB, tmp_path, maker(V1), shutil.rmtree):
        assert f"segdeploy-{ended.pid}-0123abcd" not in groups_in(own)
    assert sorted(groups_in(own)) == sorted(
        [f"segdeploy-{os.getppid()}-0123abcd", "segdeploy-mine"]
    )


def test_the_child_joins_before_it_becomes_itself(tmp_path: Path) -> None:
    version_2(tmp_path)
    with memory_group(MIB, tmp_path, maker(V2), shutil.rmtree) as group:
        assert isinstance(group, Group)
        words = [sys.executable, "-c", "import os; print(os.getpid())"]
        child = subprocess.run(group.command(words), capture_output=True, text=True, check=True)
        assert (group.folder / "cgroup.procs").read_text() == child.stdout


def test_a_real_kernel_kills_above_the_limit_and_leaves_what_is_below() -> None:
    if os.environ.get("SEGDEPLOY_TEST_CGROUPS") != "1":
        pytest.skip("makes a control group under this process's: SEGDEPLOY_TEST_CGROUPS=1 allows")
    with memory_group(64 * MIB) as group:
        if isinstance(group, NoGroup):
            pytest.skip(f"no control group can be had here: {group.why}")
        folder = group.folder
        take = "x = bytearray({} << 20)\nx[::4096] = b'1' * len(x[::4096])"
        small = subprocess.run(group.command([sys.executable, "-c", take.format(16)]), check=False)
        assert (small.returncode, group.oom_kills) == (0, 0)
        assert 16 * MIB < (group.peak_bytes or 17 * MIB) <= 64 * MIB
        large = subprocess.run(group.command([sys.executable, "-c", take.format(96)]), check=False)
        assert (large.returncode, group.oom_kills) == (-9, 1)
    assert not folder.exists()
