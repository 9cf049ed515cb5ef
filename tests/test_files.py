"""Nothing half-written is ever seen under the final name."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from segformer_deploy.errors import OutputError
from segformer_deploy.files import (
    atomic_file,
    atomic_folder,
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
