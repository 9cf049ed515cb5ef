"""What a run is made of before it runs: names of outputs, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from segformer_deploy.errors import InputError, MediaError
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.workflow.places import named_for
from segformer_deploy.workflow.run import RunJob, opened


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("o.mp4", "o-2.mp4"),
        ("a.b/o.mp4", "a.b/o-2.mp4"),
        ("pictures", "pictures-2"),
        ("rtsp://host:8554/street", "rtsp://host:8554/street-2"),
        ("rtmp://u:p@host/live/s?a=b", "rtmp://u:p@host/live/s-2?a=b"),
        ("-", "-"),
        ("rtsp://[::1/x", "rtsp://[::1/x"),
    ],
)
def test_each_source_has_outputs_of_its_own(output: str, name: str) -> None:
    assert named_for(output, 1, 3) == name
    assert named_for(output, 0, 1) == output


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (RunJob(("test:",)), "nothing to write"),
        (RunJob((), masks=Path("m")), "no source"),
        (RunJob(("-", "-"), masks=Path("m")), "stdin"),
        (RunJob(("a.mp4",), outputs=("-",)), "the output -"),
        (RunJob(("a.mp4",), outputs=("",)), "without a name"),
        (RunJob(("a.mp4",), masks=""), "without a name"),
        (RunJob(("p/0.png",), masks="p"), r"over the source p/0\.png"),
        (RunJob(("p/0.png",), outputs=("./p",)), r"over the source p/0\.png"),
        (RunJob(("camera:3",), outputs=("/dev/video3",)), "over the source camera:3"),
        (RunJob(("a.mp4",), json_lines="./a.mp4"), r"over the source a\.mp4"),
        (RunJob(("a-2.mp4", "b.mp4"), outputs=("a.mp4",)), r"over the source a-2\.mp4"),
        (RunJob(("a.mp4", "b.mp4"), outputs=("/dev/video9",)), "takes one stream"),
        (RunJob(("a.mp4", "b.mp4"), outputs=("udp://h:5?ttl=4",)), "takes one stream"),
        (RunJob(("a.mp4", "b.mp4"), outputs=("rtsp://h:8554",)), "takes one stream"),
        (RunJob(("a.mp4",), outputs=("o.mp4", "x/../o.mp4")), "both go to"),
        (RunJob(("a.mp4",), outputs=("f",), masks=Path("f")), "both go to"),
    ],
    ids=lambda value: " ".join(value.outputs) if isinstance(value, RunJob) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_opens(job: RunJob, words: str) -> None:
    with pytest.raises(InputError, match=words), opened(job):
        pass


def test_a_picture_of_a_source_folder_is_no_place_for_a_log(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"x")
    job = RunJob((str(tmp_path),), json_lines=str(tmp_path / "0.png"))
    with pytest.raises(InputError, match="over the source"), opened(job):
        pass
    RunJob((str(tmp_path),), json_lines=str(tmp_path / "shares.jsonl")).check()
    RunJob(("films/a.mp4",), masks="films").check()  # its frames are called otherwise


def test_the_first_sources_are_closed_where_a_later_one_does_not_open() -> None:
    seen = []
    job = RunJob(("test:", "nowhere.mp4"), masks=Path("m"), capture=CaptureOptions(open_s=5))
    from segformer_deploy.video.live.source import LiveSource

    close = LiveSource.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveSource, "close", lambda self: (seen.append(self.name), close(self)))
        with pytest.raises(MediaError, match=r"nowhere\.mp4"), opened(job):
            pass
    assert seen == ["test:"]


def test_passwords_are_not_in_what_is_printed() -> None:
    job = RunJob(("rtsp://u:secret@host/a", "rtsp://host/b"), outputs=("rtsp://u:secret@host/c",))
    assert "secret" not in f"{job.names}{job.places(0)}{job.places(1)}"
    assert job.places(1)["output"] == "rtsp://u:***@host/c-2"
