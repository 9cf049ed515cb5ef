"""A batch gives what `segdeploy run` gives, once; and again nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from segformer_deploy.batch.folder import STATE
from segformer_deploy.errors import InputError, OutputError
from segformer_deploy.video.video_file import VideoFile
from tests.batch.batches import bytes_of, go, item_of, job_of, run_alone
from tests.batch.films import FILMS, film, irregular_times
from tests.video.makers import make_video, read_packets, read_times


@pytest.mark.parametrize(
    "name", ["open groups with pyramids", "irregular times", "a rotation tag", "no container"]
)
def test_masks_are_the_bytes_of_run(name: str, tmp_path: Path) -> None:
    path = FILMS[name](tmp_path)
    run_alone(tmp_path, path, masks=tmp_path / "masks")
    report = go(job_of(tmp_path, path, tmp_path / "out", masks=True, overlay=False))
    assert report.complete
    found = bytes_of(tmp_path / "out" / path.name / "masks")
    assert found == bytes_of(tmp_path / "masks")
    assert len(found) == report.items[0].frames == 60


@pytest.mark.parametrize(
    "name",
    [
        "open groups with pyramids",
        "irregular times",
        "irregular times in Matroska",
        "a rotation tag",
        "sound that begins before",
        "every frame a key frame",
    ],
)
def test_the_overlay_has_the_frames_times_and_sound_of_runs(name: str, tmp_path: Path) -> None:
    path = FILMS[name](tmp_path)
    ours, runs = tmp_path / "out" / path.name / "overlay.mp4", tmp_path / "run.mp4"
    run_alone(tmp_path, path, outputs=(str(runs),))
    report = go(job_of(tmp_path, path, tmp_path / "out"))
    assert report.complete
    assert report.items[0].chunks > 1
    assert read_times(ours) == read_times(runs)
    if "sound" in name:
        assert read_packets(ours) == read_packets(runs)
        assert read_packets(ours)
    with VideoFile(ours) as one, VideoFile(runs) as other:
        assert (one.size, one.frame_count) == (other.size, other.frame_count)
        pairs = list(zip(one, other, strict=True))
    with av.open(str(ours)) as one, av.open(str(runs)) as other:
        assert one.streams.video[0].start_time == other.streams.video[0].start_time
    # The encoder's decisions at the borders differ, what is shown does not.
    for number, (a, b) in enumerate(pairs):
        unlike = [c for _, c in pairs[max(0, number - 3) : number + 4]]
        nearest = min(unlike, key=lambda c: np.abs(a.image.astype(int) - c.image).mean())
        assert nearest is b


# x264 reads bytes beside the picture where rows are not of 64 bytes each, and then does not always
# repeat itself, in `run` either.
WIDE = (64, 128)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: film(folder / "film.mp4", pts=irregular_times(), size=WIDE),
        lambda folder: film(folder / "film.mp4", 1, size=WIDE),
        lambda folder: film(folder / "film.h264", size=WIDE),
        lambda folder: make_video(folder / "film.mkv", sound="aac", size=WIDE),
    ],
)
def test_one_chunk_is_the_very_file_of_run(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    run_alone(tmp_path, path, outputs=(str(tmp_path / "run.mp4"),))
    report = go(job_of(tmp_path, path, tmp_path / "out", chunk_seconds=1000.0))
    assert report.items[0].chunks == 1
    ours = tmp_path / "out" / path.name / "overlay.mp4"
    assert ours.read_bytes() == (tmp_path / "run.mp4").read_bytes()


def three_films(folder: Path) -> Path:
    archive = folder / "archive"
    (archive / "deep" / "er").mkdir(parents=True)
    film(archive / "one.mp4", 30)
    film(archive / "deep" / "two.mkv", 20)
    film(archive / "deep" / "er" / "three.mp4", 10)
    return archive


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    archive, out = three_films(tmp_path), tmp_path / "out"
    seen: list[tuple[str, int, int]] = []
    job = job_of(tmp_path, archive, out, recursive=True, masks=True)
    first = go(job, on_progress=lambda *step: seen.append(step))
    assert [item.name for item in first.items] == [
        "deep/er/three.mp4", "deep/two.mkv", "one.mp4"
    ]  # fmt: skip
    assert (first.count("done"), first.segmented) == (3, 60)
    assert seen[-1] == ("segmenting", 60, 60)
    before = bytes_of(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = go(job)
    assert (second.count("already"), second.segmented) == (3, 0)
    assert second.complete
    assert bytes_of(out) == before
    changed = {p for p in stamps if p.stat().st_mtime_ns != stamps[p]} - {out / STATE}
    assert not changed
    assert not list((out / STATE / "chunks").iterdir())
    assert not list((out / STATE / "plans").iterdir())
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_what_is_new_or_changed_is_made(tmp_path: Path) -> None:
    archive, out = three_films(tmp_path), tmp_path / "out"
    job = job_of(tmp_path, archive, out)
    assert go(job).count("done") == 1
    film(archive / "new.mp4", 5)
    assert [item.state for item in go(job).items] == ["done", "already"]
    film(archive / "one.mp4", 7)
    report = go(job)
    assert item_of(report, "one.mp4").state == "done"
    assert item_of(report, "one.mp4").frames == 7
    assert "changed" in item_of(report, "one.mp4").notes[0]
    shutil.rmtree(out / "new.mp4")
    assert item_of(go(job), "new.mp4").state == "done"


def test_other_settings_are_refused_until_it_is_told_to_begin_anew(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    go(job_of(tmp_path, path, out))
    before = bytes_of(out)
    with pytest.raises(InputError, match=r"opacity \(0.5, now 0.9\)") as caught:
        go(job_of(tmp_path, path, out, opacity=0.9))
    assert "--restart" in caught.value.next_step
    assert bytes_of(out) == before
    report = go(job_of(tmp_path, path, out, opacity=0.9, restart=True))
    assert report.count("done") == 1
    assert bytes_of(out) != before
    assert go(job_of(tmp_path, path, out, opacity=0.9)).count("already") == 1
    # The same settings, told to begin anew, are made anew too.
    assert go(job_of(tmp_path, path, out, opacity=0.9, restart=True)).count("done") == 1


def test_threads_are_no_other_settings(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    go(job_of(tmp_path, path, out))
    assert go(job_of(tmp_path, path, out, threads=2)).count("already") == 1


def test_another_engine_is_refused(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    go(job)
    engine = job.settings.engine
    engine.write_bytes(engine.read_bytes().replace(b"little", b"lottle"))
    with pytest.raises(InputError, match="engine"):
        go(job)


def test_nobody_elses_folder_is_replaced(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    (out / "film.mp4").mkdir(parents=True)
    (out / "film.mp4" / "diary.txt").write_text("mine")
    report = go(job_of(tmp_path, path, out))
    assert report.items[0].state == "failed"
    assert "not made by a batch" in (report.items[0].error or "")
    assert bytes_of(out) == {"film.mp4/diary.txt": b"mine"}


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    errors: list[OutputError] = []

    def meanwhile(*step: Any) -> None:
        if not errors:
            with pytest.raises(OutputError) as caught:
                go(job)
            errors.append(caught.value)

    assert go(job, on_progress=meanwhile).complete
    assert "another process" in errors[0].found


def test_the_record_tells_what_is_in_the_results(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    whole = run_alone(tmp_path, path, masks=tmp_path / "masks")
    report = go(job_of(tmp_path, path, tmp_path / "out", masks=True))
    record = json.loads((tmp_path / "out" / "film.mp4" / "item.json").read_text())
    assert (record["frames"], record["corrupt"], record["chunks"]) == (60, 0, 4)
    assert set(record["class_shares"]) == set(whole.class_shares)
    for name, share in whole.class_shares.items():
        assert record["class_shares"][name] == pytest.approx(share, abs=1e-6)
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["done"], data["frames"]) == (1, 60)
