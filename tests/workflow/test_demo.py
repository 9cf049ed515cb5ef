"""The demo makes what it lists."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import pytest

from segformer_deploy.engine.package import check_folder
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow import demo as room


def test_demo_makes_every_file_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CLIP_FRAMES", 5)
    monkeypatch.setattr(room, "shipped_file", lambda _: None)
    monkeypatch.setattr(room, "CLIP_SIZE", FrameSize(96, 128))
    said: list[str] = []
    report = room.demo(tmp_path / "demo", None, None, said.append)
    assert all(path.exists() for path in report.files)
    assert check_folder(tmp_path / "demo" / "engine").spec.weights.random
    with av.open(str(tmp_path / "demo" / "overlay.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 5
    picture = cv2.imread(str(tmp_path / "demo" / "side_by_side.png"))
    assert picture.shape == (96, 256, 3)
    text = (tmp_path / "demo" / "report.md").read_text()
    for path in report.files:
        assert str(path) in text
    assert "random" in text
    assert report.to_dict()["run"]["frames"] == 5
