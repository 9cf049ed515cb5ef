"""Nothing half-written is ever seen under the final name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy import files
from segformer_deploy.errors import OutputError
from segformer_deploy.files import (
    atomic_file,
    atomic_folder,
    recover_folder,
    sha256_of_file,
    write_bytes,
    write_text,
)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "x.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.suffix == ".txt"
    assert target.read_text() == "half"
    assert entries(target.parent) == ["x.txt"]


def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert entries(tmp_path) == ["x.txt"]


def test_interrupt_keeps_what_was_written_only_where_asked(tmp_path: Path) -> None:
    for keep in (False, True):
        target = tmp_path / f"{keep}.txt"
        with (
            pytest.raises(KeyboardInterrupt),
            atomic_file(target, keep_on_interrupt=keep) as temporary,
        ):
            temporary.write_text("so far")
            raise KeyboardInterrupt
        assert target.exists() is keep


def test_a_folder_is_swapped_whole(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    for generation in ("1", "2"):
        with atomic_folder(target) as temporary:
            (temporary / generation).write_text(generation)
    assert entries(target) == ["2"]
    assert entries(tmp_path) == ["engine"]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    with atomic_folder(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(OutputError), atomic_folder(target) as temporary:
        (temporary / "new").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert entries(target) == ["old"]
    assert entries(tmp_path) == ["engine"]


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "may write"), (errno.EROFS, "read-only")],
)
def test_system_errors_name_the_file_and_the_next_step(
    tmp_path: Path, number: int, word: str
) -> None:
    with pytest.raises(OutputError) as caught, atomic_file(tmp_path / "x"):
        raise OSError(number, "reason")
    assert str(tmp_path / "x") in caught.value.found
    assert word in caught.value.next_step


class Disk:
    """What was synced, and what was made visible, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, syncfs: bool = False) -> None:
        self.events: list[tuple[str, str]] = []
        fsync, rename, replace = os.fsync, Path.rename, Path.replace

        def synced(handle: int) -> None:
            self.events.append(("sync", os.path.realpath(f"/proc/self/fd/{handle}")))
            fsync(handle)

        def moved(move: Any) -> Any:
            def call(path: Path, to: Path) -> Path:
                self.events.append(("rename", str(path)))
                return move(path, to)  # type: ignore[no-any-return]

            return call

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "rename", moved(rename))
        monkeypatch.setattr(Path, "replace", moved(replace))
        if not syncfs:
            monkeypatch.setattr(files, "_sync_all", lambda _: False)

    def before_rename(self) -> set[str]:
        """The names of what was synced before it, from the written file or folder on."""
        place = [kind for kind, _ in self.events].index("rename")
        written = self.events[place][1]
        return {os.path.relpath(path, written) for _, path in self.events[:place]}


def test_a_file_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    write_text(tmp_path / "x", "text")
    assert disk.before_rename() == {"."}
    disk.events.clear()
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_file(tmp_path / "y", keep_on_interrupt=True) as temporary,
    ):
        temporary.write_text("so far")
        raise KeyboardInterrupt
    assert disk.before_rename() == {"."}
    disk.events.clear()
    write_bytes(tmp_path / "frame.png", b"one of thousands")
    assert [kind for kind, _ in disk.events] == ["rename"]


@pytest.mark.parametrize("many", [3, 20])
@pytest.mark.parametrize("syncfs", [False, True])
def test_a_folder_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, syncfs: bool
) -> None:
    disk, all_at_once = Disk(monkeypatch, syncfs=syncfs), []
    if syncfs:
        real = files._sync_all
        monkeypatch.setattr(
            files, "_sync_all", lambda folder: all_at_once.append(len(disk.events)) or real(folder)
        )
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir()
        for number in range(many):
            (temporary / "deep" / str(number)).write_text("x")
        (temporary / "dangling").symlink_to("nowhere")
    names = {".", "deep", *(f"deep/{number}" for number in range(many))}
    if syncfs and many > 8:
        assert all_at_once == [0]
    else:
        assert all_at_once == []
        assert disk.before_rename() == names
    assert disk.events[-1] == ("sync", os.path.realpath(tmp_path))


def test_a_disk_that_does_not_take_the_bytes_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "x", "old")

    def refused(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OutputError, match="Input/output error"):
        write_text(tmp_path / "x", "new")
    with pytest.raises(OutputError, match="Input/output error"):
        swap(tmp_path / "folder", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert entries(tmp_path) == ["x"]


def test_a_full_disk_is_an_output_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OutputError), atomic_file(Path("/dev/shm/segdeploy-test")) as temporary:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(full)
        temporary.write_bytes(b"x" * 100)
    assert not Path("/dev/shm/segdeploy-test").exists()


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError):
        write_bytes(tmp_path / "a" / "b", b"")


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write_bytes(tmp_path / "x", data)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


# ---- folders: what others left, what others do, and what the system cannot do --------------------


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    return folder


def text_of(folder: Path) -> str:
    return (folder / "manifest.json").read_text()


def swap(target: Path, text: str) -> None:
    with atomic_folder(target) as temporary:
        (temporary / "manifest.json").write_text(text)


NAMES = [
    "engine", "engine.v1", ".hidden", "a b", "[x]*?", "é", "engine.partial", "x.old",
    "n" * 255, "é" * 120 + ".mp4", "x." + "e" * 250, "n" * 126,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_a_killed_build_left_is_cleared(tmp_path: Path, name: str) -> None:
    target = filled(tmp_path / name, "old")
    for kind in ("partial", "old"):
        filled(files._aside(target, kind), "half")
    swap(target, "new")
    assert text_of(target) == "new"
    assert entries(tmp_path) == [name]


def test_long_names_do_not_share_what_lies_beside_them(tmp_path: Path) -> None:
    one, other = tmp_path / ("n" * 250 + ".mp4"), tmp_path / ("n" * 250 + ".mkv")
    write_bytes(one, b"1")
    assert one.read_bytes() == b"1"
    left = filled(files._aside(one.with_suffix(".avi")), "another's")
    with atomic_folder(other) as temporary:
        assert temporary.suffix == ".mkv"
    assert entries(tmp_path) == sorted([one.name, other.name, left.name])


def test_only_its_own_leftovers_are_cleared(tmp_path: Path) -> None:
    others = [
        ".engine2.01234567.partial",
        ".engine.01234567.partial.v1",
        ".engine.0123456.partial",
        ".engine.0123456g.partial",
        ".engine.01234567.other",
        "engine.01234567.partial",
        ".Engine.01234567.partial",
    ]
    for name in others:
        filled(tmp_path / name, "another's")
    filled(tmp_path / ".engine.01234567.partial", "mine")
    swap(tmp_path / "engine", "new")
    assert entries(tmp_path) == sorted([*others, "engine"])


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_was_moved_away_comes_back_first(tmp_path: Path, name: str) -> None:
    """Killed between the two renames: the name is free, the older folder lies beside it."""
    target = tmp_path / name
    for age, text in ((1, "oldest"), (2, "older")):
        os.utime(filled(files._aside(target, "old"), text), (age, age))
    filled(files._aside(target), "half")
    with pytest.raises(ZeroDivisionError), atomic_folder(target):
        assert text_of(target) == "older"
        raise ZeroDivisionError
    assert text_of(target) == "older"
    assert entries(tmp_path) == [name]
    swap(target, "new")
    assert text_of(target) == "new"


def test_recovery_without_a_build(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    recover_folder(target)
    recover_folder(tmp_path / "no" / "such")
    assert entries(tmp_path) == []
    filled(files._aside(target), "half")
    recover_folder(target)
    assert not target.exists()
    filled(files._aside(target, "old"), "older")
    recover_folder(target)
    assert text_of(target) == "older"
    assert entries(tmp_path) == ["engine"]
    filled(files._aside(target, "old"), "oldest")
    recover_folder(target)
    assert text_of(target) == "older"


def test_a_folder_that_is_being_built_is_nobody_elses(tmp_path: Path) -> None:
    target = filled(tmp_path / "engine", "old")
    with atomic_folder(target) as temporary:
        with pytest.raises(OutputError, match="another process") as caught, atomic_folder(target):
            raise AssertionError("two at once")
        assert f"number {os.getpid()}" in caught.value.found
        assert str(target) in caught.value.found
        assert "--output" in caught.value.next_step
        # The one that was refused has touched nothing of the first one's.
        (temporary / "manifest.json").write_text("new")
    assert text_of(target) == "new"
    swap(target, "newer")
    swap(tmp_path / "other", "at once")
    assert entries(tmp_path) == ["engine", "other"]


def test_of_many_at_once_none_loses_what_it_wrote(tmp_path: Path) -> None:
    target, won, lost = filled(tmp_path / "engine", "-1"), list[str](), list[str]()
    wrong: list[BaseException] = []

    def build(number: int) -> None:
        for turn in range(20):
            try:
                with atomic_folder(target) as temporary:
                    (temporary / "manifest.json").write_text(f"{number}.{turn}")
                    assert text_of(temporary) == f"{number}.{turn}"
                won.append(f"{number}.{turn}")
            except OutputError as error:
                lost.append(error.found)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(won) + len(lost) == 80
    assert all("being built by another process" in text for text in lost)
    assert text_of(target) in won
    assert entries(tmp_path) == ["engine"]


HOLD = """
import sys, time
from pathlib import Path
from segformer_deploy.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "manifest.json").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_dead_process_is_open(tmp_path: Path) -> None:
    target = filled(tmp_path / "engine", "old")
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(OutputError, match=f"number {holder.pid}"):
            swap(target, "too early")
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    assert len(entries(tmp_path)) == 3
    assert text_of(target) == "old"
    swap(target, "new")
    assert text_of(target) == "new"
    assert entries(tmp_path) == ["engine"]


def test_a_lock_file_that_nobody_holds_is_open(tmp_path: Path) -> None:
    (tmp_path / ".engine.lock").write_text("1")
    swap(tmp_path / "engine", "new")
    assert entries(tmp_path) == ["engine"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    for text in ("1", "2"):
        swap(tmp_path / "engine", text)
    assert text_of(tmp_path / "engine") == "2"
    assert entries(tmp_path) == ["engine"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    real = filled(tmp_path / "disk" / "engine", "old")
    link = tmp_path / "engine"
    link.symlink_to(real)
    swap(link, "new")
    assert link.is_symlink()
    assert text_of(real) == "new"
    assert entries(tmp_path) == ["disk", "engine"]
    assert entries(tmp_path / "disk") == ["engine"]


def can_exchange(folder: Path) -> bool:
    one, other = filled(folder / "one", "1"), filled(folder / "other", "2")
    return files._exchange(one, other)


def test_two_names_are_exchanged_in_one_step(tmp_path: Path) -> None:
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two names")
    assert (text_of(tmp_path / "one"), text_of(tmp_path / "other")) == ("2", "1")
    assert not files._exchange(tmp_path / "one", tmp_path / "none")
    assert text_of(tmp_path / "one") == "2"


def test_a_reader_never_sees_a_folder_missing(tmp_path: Path) -> None:
    (tmp_path / "try").mkdir()
    if not can_exchange(tmp_path / "try"):
        pytest.skip("this file system cannot exchange two names")
    target, done, seen = filled(tmp_path / "engine", "0"), threading.Event(), set[str]()
    missing: list[BaseException] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(text_of(target))
            except OSError as error:
                missing.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        swap(target, str(turn))
    done.set()
    reader.join()
    assert not missing
    assert len(seen) > 1


def test_without_an_exchange_there_are_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = filled(tmp_path / "engine", "old")
    swap(target, "new")
    assert text_of(target) == "new"
    assert entries(tmp_path) == ["engine"]


def test_a_second_rename_that_fails_puts_the_older_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target, rename = filled(tmp_path / "engine", "old"), Path.rename

    def refused(path: Path, to: Path) -> Path:
        if ".partial" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match="Input/output error"):
        swap(target, "new")
    assert text_of(target) == "old"
    assert entries(tmp_path) == ["engine"]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may write"),
        (errno.EPERM, "may write"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "another place"),
    ],
)
@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_a_folder_that_cannot_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, word: str
) -> None:
    target = filled(tmp_path / "engine", "old")

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(OutputError) as caught:
            swap(target, "new")
    assert f"cannot write {target}: {os.strerror(number)}" in caught.value.found
    assert word in caught.value.next_step
    assert text_of(target) == "old"
    assert entries(tmp_path) == ["engine"]
