"""What goes wrong is named, and what can be done is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.batch.folder import STATE
from segformer_deploy.batch.plan import plan_video
from segformer_deploy.batch.pool import InlinePool
from segformer_deploy.batch.worker import ChunkWorker
from segformer_deploy.errors import InputError, OutputError, SegdeployError, SpecError
from segformer_deploy.video.images import write_image
from tests.batch.batches import bytes_of, go, item_of, job_of, run_alone
from tests.batch.films import film, noisy_picture


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Five videos: two good ones, and what may be wrong with others."""
    folder = tmp_path / "archive"
    folder.mkdir()
    film(folder / "a.mp4", 30)
    film(folder / "z.mp4", 30)
    (folder / "empty.mp4").touch()
    (folder / "noise.mkv").write_bytes(os.urandom(5000))
    (folder / "leads-nowhere.mp4").symlink_to(folder / "absent")
    return folder


def test_bad_videos_are_named_and_the_others_done(tmp_path: Path, archive: Path) -> None:
    report = go(job_of(tmp_path, archive, tmp_path / "out", masks=True))
    assert not report.complete
    assert {item.name: item.state for item in report.items} == {
        "a.mp4": "done",
        "empty.mp4": "failed",
        "leads-nowhere.mp4": "failed",
        "noise.mkv": "failed",
        "z.mp4": "done",
    }
    for name, words in {
        "empty.mp4": "is empty",
        "leads-nowhere.mp4": "No such file",
        "noise.mkv": "cannot be read as a video",
    }.items():
        error = item_of(report, name).error or ""
        assert words in error
        assert str(archive / name) in error
        assert "expected:" in error
    again = go(job_of(tmp_path, archive, tmp_path / "out", masks=True))
    assert (again.count("already"), again.count("failed"), again.segmented) == (2, 3, 0)


def test_an_unreadable_video_is_named(tmp_path: Path) -> None:
    # Root reads everything: it has to be somebody else for a moment.
    place = Path(tempfile.mkdtemp())
    try:
        archive = place / "archive"
        archive.mkdir()
        film(archive / "a.mp4", 20)
        film(archive / "closed.mp4", 20).chmod(0)
        job = job_of(place, archive, place / "out")
        for path in (place, *place.rglob("*")):
            if path.name != "closed.mp4":
                path.chmod(0o777 if path.is_dir() else 0o666)
        if os.geteuid() == 0:
            os.seteuid(65534)
            try:
                report = go(job)
            finally:
                os.seteuid(0)
        else:
            report = go(job)
        assert item_of(report, "a.mp4").state == "done"
        assert "Permission denied" in (item_of(report, "closed.mp4").error or "")
    finally:
        shutil.rmtree(place)


def spoilt(path: Path) -> Path:
    """A film with a stretch of its coded pictures overwritten."""
    film(path)
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : third + 1500] = b"\xff" * 1500
    path.write_bytes(bytes(data))
    return path


def test_a_damaged_video_gives_what_run_gives(tmp_path: Path) -> None:
    path = spoilt(tmp_path / "film.mp4")
    whole = run_alone(tmp_path, path, masks=tmp_path / "masks")
    assert whole.corrupt
    report = go(job_of(tmp_path, path, tmp_path / "out", masks=True))
    item = report.items[0]
    assert report.complete
    assert (item.frames, item.chunks) == (whole.frames, 1)
    assert any("not cut into chunks" in note for note in item.notes)
    assert any("is damaged" in note for note in item.notes)
    assert bytes_of(tmp_path / "out" / "film.mp4" / "masks") == bytes_of(tmp_path / "masks")


def test_a_plan_that_was_wrong_is_given_up_for_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mp4")
    good = plan_video(path, 0.5)
    last = good.parts[-1]
    wrong = replace(good, parts=(*good.parts[:-1], replace(last, count=last.count + 1)))
    monkeypatch.setattr("segformer_deploy.batch.worker.plan_video", lambda *_: wrong)
    seen: list[tuple[str, int, int]] = []
    job = job_of(tmp_path, path, tmp_path / "out", masks=True)
    report = go(job, on_progress=lambda *step: seen.append(step))
    assert report.complete
    assert (report.items[0].frames, report.items[0].chunks) == (60, 1)
    assert "frames come out of it" in report.items[0].notes[0]
    assert all(0 <= done <= total for _, done, total in seen)
    run_alone(tmp_path, path, masks=tmp_path / "masks")
    assert bytes_of(tmp_path / "out" / "film.mp4" / "masks") == bytes_of(tmp_path / "masks")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    film(archive / "a.mp4", 10)
    film(archive / "z-big.mp4", 60, size=(256, 384))
    film(archive / "b.mp4", 10)
    job = job_of(tmp_path, archive, small_disk / "out")
    report = go(job)
    assert [item.state for item in report.items] == ["done", "done", "failed"]
    error = report.items[2].error or ""
    assert "No space left on device" in error
    assert str(small_disk) in error
    assert "free some space" in error
    assert not [path for path in small_disk.rglob("*") if "partial" in path.name]
    # With room it goes on from there.
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = go(job)
    assert [item.state for item in again.items] == ["already", "already", "done"]
    assert again.items[2].frames == 60


class _Meanwhile(InlinePool):
    """A pool in which something happens after a few chunks."""

    def __init__(self, after: int, what: Any) -> None:
        self._left, self._what = after, what

    def run(self, make_worker: Any, tasks: Any) -> Any:
        for outcome in super().run(make_worker, tasks):
            if type(outcome.task).__name__ == "ChunkTask":
                self._left -= 1
                if self._left == 0:
                    self._what()
            yield outcome


def test_an_output_folder_that_is_removed(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for name in "abc":
        film(archive / f"{name}.mp4", 30)
    pool = _Meanwhile(4, lambda: shutil.rmtree(out))
    report = go(job_of(tmp_path, archive, out), pool)
    assert not report.complete
    assert [item.state for item in report.items] == ["done", "failed", "failed"]
    for item in report.items[1:]:
        assert f"the output folder {out} was removed" in (item.error or "")
    assert not out.exists()
    assert go(job_of(tmp_path, archive, out)).count("done") == 3


def test_one_videos_chunks_that_are_removed(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    film(archive / "a.mp4", 60)
    film(archive / "b.mp4", 30)
    chunks = out / STATE / "chunks"
    pool = _Meanwhile(2, lambda: [shutil.rmtree(one) for one in chunks.glob("a*/0000*")])
    report = go(job_of(tmp_path, archive, out), pool)
    assert [item.state for item in report.items] == ["failed", "done"]
    assert "chunk" in (report.items[0].error or "")
    assert go(job_of(tmp_path, archive, out)).complete


def test_a_video_that_changes_meanwhile(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 60), tmp_path / "out"
    pool = _Meanwhile(2, lambda: film(path, 20))
    report = go(job_of(tmp_path, path, out), pool)
    assert "was changed while the batch ran" in (report.items[0].error or "")
    again = go(job_of(tmp_path, path, out))
    assert (again.items[0].state, again.items[0].frames) == ("done", 20)


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 60), tmp_path / "out"

    def press() -> None:
        raise KeyboardInterrupt

    report = go(job_of(tmp_path, path, out), _Meanwhile(3, press))
    assert report.interrupted
    assert report.items[0].state == "unfinished"
    rest = go(job_of(tmp_path, path, out))
    assert rest.complete
    assert 0 < rest.segmented < 30


def test_an_engine_that_does_not_load_ends_it(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 20)
    job = job_of(tmp_path, path, tmp_path / "out", backend="tensorrt")
    with pytest.raises(SegdeployError):
        go(job)


def test_a_worker_that_does_not_see_the_folder_does_not_begin(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    go(job)
    for place, token in ((out, "of another batch"), (tmp_path / "elsewhere", "x")):
        with pytest.raises(OutputError, match="is not seen from here"):
            ChunkWorker(job.settings, place, token)
    assert not (tmp_path / "elsewhere").exists()


def test_a_state_that_does_not_read(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    go(job_of(tmp_path, path, out))
    (out / STATE / "batch.json").write_text("{")
    with pytest.raises(SpecError, match=r"batch\.json"):
        go(job_of(tmp_path, path, out))
    assert go(job_of(tmp_path, path, out, restart=True)).count("done") == 1


def test_pictures_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_image(folder / "a.png", noisy_picture(0, 64, 96))
    with pytest.raises(InputError, match="1 pictures and no video") as caught:
        go(job_of(tmp_path, folder, tmp_path / "out"))
    assert "segdeploy run" in caught.value.next_step
    report = go(job_of(tmp_path, folder / "a.png", tmp_path / "out"))
    assert "is a picture" in (report.items[0].error or "")
    film(folder / "film.mp4", 10)
    report = go(job_of(tmp_path, folder, tmp_path / "other"))
    assert report.complete
    assert "1 pictures" in report.notes[0]
