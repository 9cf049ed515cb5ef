"""The demo makes what it lists."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from segformer_deploy.engine.package import check_folder
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import CLASS_NAMES
from segformer_deploy.workflow import demo as room
from tests.little import write_little


def test_demo_makes_every_file_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CLIP_FRAMES", 5)
    monkeypatch.setattr(room, "CLIP_SIZE", FrameSize(96, 128))
    said: list[str] = []
    report = room.demo(tmp_path / "demo", None, None, said.append)
    assert all(path.exists() for path in report.files)
    assert check_folder(tmp_path / "demo" / "engine").spec.class_names == CLASS_NAMES
    assert report.miou is not None
    assert 0 < report.miou < 100
    with av.open(str(tmp_path / "demo" / "overlay.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 5
    picture = cv2.imread(str(tmp_path / "demo" / "side_by_side.png"))
    assert picture.shape == (96, 256, 3)
    text = (tmp_path / "demo" / "report.md").read_text()
    for path in report.files:
        assert str(path) in text
    assert f"{report.miou:.1f} %" in text
    assert report.to_dict()["run"]["frames"] == 5


def test_demo_of_ones_own_model_and_picture(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "little.onnx")
    picture = tmp_path / "mine.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_onnx_for_demo", lambda *_: onnx)
        report = room.demo(tmp_path / "demo", "mine", str(picture), lambda _: None)
    assert report.miou is None
    assert report.run.frames == 1
    assert "random" in (tmp_path / "demo" / "report.md").read_text()
