"""What a power loss, or a hand, damages in the state is made anew, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.batch.chunk import read_chunk, write_chunk
from segformer_deploy.batch.folder import STATE
from segformer_deploy.batch.pool import InlinePool
from segformer_deploy.errors import OutputError, SpecError
from tests.batch.batches import bytes_of, go, item_of, job_of
from tests.batch.films import film


class _Ended(InlinePool):
    """A pool that Ctrl-C ends after so many chunks."""

    def __init__(self, after: int) -> None:
        self._left = after

    def run(self, make_worker: Any, tasks: Any) -> Any:
        for outcome in super().run(make_worker, tasks):
            yield outcome
            self._left -= type(outcome.task).__name__ == "ChunkTask"
            if self._left == 0:
                raise KeyboardInterrupt


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "all masks are empty": lambda chunk: [_empty(p) for p in chunk.glob("masks/*")] and None,
    "one mask is gone": lambda chunk: next(chunk.glob("masks/*")).unlink(),
    "a mask too many": lambda chunk: _empty(chunk / "masks" / "more.png"),
    "the record is empty": lambda chunk: _empty(chunk / "chunk.json"),
    "the record is gone": lambda chunk: (chunk / "chunk.json").unlink(),
    "the record is no record": lambda chunk: _write(chunk / "chunk.json", "{}") and None,
    "the record is a list": lambda chunk: _write(chunk / "chunk.json", "[]") and None,
    "a part is cut off": lambda chunk: _write(chunk / "overlay.h264", "x") and None,
}


def _write(path: Path, text: str) -> int:
    return path.write_text(text)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_chunk_is_made_anew(name: str, tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 60, size=(64, 128)), tmp_path / "out"
    job = job_of(tmp_path, path, out, masks=True)
    assert go(job_of(tmp_path, path, tmp_path / "whole", masks=True)).complete
    assert go(job, _Ended(3)).interrupted
    chunks = sorted((out / STATE / "chunks").glob("*/*"))
    assert len(chunks) == 3
    frames = read_chunk(chunks[1])["frames"]
    DAMAGE[name](chunks[1])
    with pytest.raises(OutputError, match="cannot be read"):
        read_chunk(chunks[1])
    report = go(job)
    assert report.complete
    assert report.segmented == frames + report.items[0].frames - 3 * frames
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


class _Spoiling(InlinePool):
    """A pool that empties the masks of a finished chunk before the last one is done."""

    def __init__(self, chunks: Path) -> None:
        self._chunks, self._number = chunks, 0

    def run(self, make_worker: Any, tasks: Any) -> Any:
        for outcome in super().run(make_worker, tasks):
            self._number += type(outcome.task).__name__ == "ChunkTask"
            if self._number == 2:
                for mask in self._chunks.glob("*/0000*/masks/*"):
                    _empty(mask)
            yield outcome


def test_a_chunk_that_is_damaged_meanwhile_is_not_joined(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4"), tmp_path / "out"
    job = job_of(tmp_path, path, out, masks=True)
    report = go(job, _Spoiling(out / STATE / "chunks"))
    assert report.items[0].state == "failed"
    assert "has 0 bytes" in (report.items[0].error or "")
    assert not (out / "film.mp4").exists()
    again = go(job)
    assert again.complete
    assert 0 < again.segmented < 60
    assert all(mask.stat().st_size for mask in (out / "film.mp4" / "masks").iterdir())


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"parts": [], "frames": "many"}', "\0\0"])
def test_a_damaged_plan_is_made_anew(text: str, tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for name in ("a.mp4", "b.mp4"):
        film(archive / name, 60)
    job = job_of(tmp_path, archive, out)
    assert go(job, _Ended(6)).interrupted
    plan = next((out / STATE / "plans").glob("b*.json"))
    plan.write_text(text)
    report = go(job)
    assert report.complete
    assert item_of(report, "a.mp4").state == "already"
    assert item_of(report, "b.mp4").frames == 60


def test_a_batch_record_without_its_token_says_what_to_do(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 10), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    go(job)
    record = out / STATE / "batch.json"
    data = json.loads(record.read_text())
    del data["token"]
    record.write_text(json.dumps(data))
    with pytest.raises(SpecError, match="does not read") as caught:
        go(job)
    assert "--restart" in caught.value.next_step


def test_a_record_tells_all_files_and_their_lengths(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"12345")
    meta = {"frames": 1, "corrupt": 0, "notes": [], "class_shares": {}}
    write_chunk(tmp_path, meta)
    assert read_chunk(tmp_path) == {**meta, "files": {"masks/a": 3, "b": 5}}
    with pytest.raises(OutputError, match="cannot be read"):
        read_chunk(tmp_path / "absent")


@pytest.mark.parametrize("length", [237, 240, 255])
def test_a_long_name_is_no_obstacle(length: int, tmp_path: Path) -> None:
    name = "é" + "n" * (length - 6) + ".mp4"
    path, out = tmp_path / name, tmp_path / "out"
    film(tmp_path / "film.mp4", 20).rename(path)
    report = go(job_of(tmp_path, path, out))
    assert report.complete, report.items[0].error
    assert sorted(one.name for one in out.iterdir()) == [STATE, name]
    assert go(job_of(tmp_path, path, out)).count("already") == 1


def test_a_name_that_the_disk_does_not_take_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    film(archive / f"{'n' * 160}.mp4", 20)
    film(archive / "short.mp4", 20)
    limits = {"PC_NAME_MAX": 143, "PC_PATH_MAX": 4096}
    monkeypatch.setattr("os.pathconf", lambda _, name: limits[name])
    report = go(job_of(tmp_path, archive, tmp_path / "out"))
    assert [item.state for item in report.items] == ["failed", "done"]
    assert "File name too long" in (report.items[0].error or "")
    assert report.segmented == 20


def test_a_chunk_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []

    def sync(folder: Path) -> None:
        synced.append((folder.name, sum(1 for path in folder.rglob("*") if path.is_file())))
        assert not (folder.parent / folder.name[1:].split(".")[0]).exists()

    monkeypatch.setattr("segformer_deploy.files.sync_folder", sync)
    path = film(tmp_path / "film.mp4", 20)
    job = job_of(tmp_path, path, tmp_path / "out", masks=True, overlay=False, chunk_seconds=1000.0)
    assert go(job).complete
    assert [count for _, count in synced] == [21, 21]  # the chunk, then the result
    assert synced[0][0].startswith(".0000-of-0001.")
