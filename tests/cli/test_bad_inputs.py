"""What goes wrong in practice: each case ends with exit code 1 and a message of its own."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from tests.cli.test_cli import place, segdeploy
from tests.little import little_model

__all__ = ["place"]


@pytest.fixture
def built(place: Path) -> Path:
    """A place with an engine folder `engine` and a picture `frame.png`."""
    done = segdeploy("build-engine", "-o", "engine", cwd=place)
    assert done.returncode == 0, done.stderr
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    cv2.imwrite(str(place / "frame.png"), frame)
    return place


def message(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    return done.stderr.split("error: ")[1]


def run(place: Path, source: str, *more: str) -> str:
    return message(segdeploy("run", "engine", "-s", source, "-o", "out.mp4", *more, cwd=place))


def test_missing_and_empty_file(built: Path) -> None:
    (built / "empty.onnx").touch()
    (built / "empty.mp4").touch()
    assert "does not exist" in message(segdeploy("build-engine", "no.onnx", cwd=built))
    assert "empty" in message(segdeploy("build-engine", "empty.onnx", cwd=built))
    assert "no.mp4" in run(built, "no.mp4")
    assert "empty" in run(built, "empty.mp4")


def test_truncated_onnx_and_onnx_that_is_not_ours(built: Path) -> None:
    whole = (built / "build" / "little.onnx").read_bytes()
    (built / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    other = little_model()
    del other.metadata_props[:]
    (built / "other.onnx").write_bytes(other.SerializeToString())
    assert "cut off" in message(segdeploy("build-engine", "cut.onnx", cwd=built))
    assert "not exported by segdeploy" in message(
        segdeploy("build-engine", "other.onnx", cwd=built)
    )


def test_manifest_edited_by_hand_and_folder_half_copied(built: Path) -> None:
    shutil.copytree(built / "engine", built / "half")
    (built / "half" / "golden" / "1.frame.png").unlink()
    manifest = built / "engine" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("onnxruntime", "tensorrt"))
    assert "changed after the build" in message(segdeploy("bench", "engine", cwd=built))
    assert "is incomplete" in message(segdeploy("bench", "half", cwd=built))


def test_a_pickle_with_code_is_refused_and_not_run(place: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path(str(place / "owned")).mkdir, ()  # type: ignore[return-value]

    torch.save({"state_dict": {"a": Payload()}}, place / "evil.pth")
    (place / "evil.bin").write_bytes(pickle.dumps(Payload()))
    text = message(segdeploy("export", "--checkpoint", "evil.pth", cwd=place))
    assert "code" in text
    assert not (place / "owned").exists()


def test_video_that_is_none_and_video_without_frames(built: Path) -> None:
    (built / "text.mp4").write_text("this is a letter, not a film\n" * 50)
    with av.open(str(built / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    not_video, no_frames = run(built, "text.mp4"), run(built, "sound.mp4")
    assert "text.mp4" in not_video
    assert "sound.mp4" in no_frames
    assert not_video.replace("text", "") != no_frames.replace("sound", "")
    assert not (built / "out.mp4").exists()


def test_frames_too_small_and_too_large(built: Path) -> None:
    cv2.imwrite(str(built / "small.png"), np.zeros((20, 24, 3), np.uint8))
    # 20000 x 20000 black pixels are a small PNG; decoded they would be 1.2 GB.
    cv2.imwrite(str(built / "large.png"), np.zeros((20000, 20000), np.uint8))
    small = message(segdeploy("run", "engine", "-s", "small.png", "-o", "o.png", cwd=built))
    large = message(segdeploy("run", "engine", "-s", "large.png", "-o", "o.png", cwd=built))
    assert "32x32" in small
    assert "20000x20000" in large


def test_nan_weights(place: Path) -> None:
    config = SegformerConfig(
        hidden_sizes=[8, 16, 16, 16], num_attention_heads=[1, 2, 2, 2], depths=[1, 1, 1, 1],
        decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    model.save_pretrained(place / "nan")
    assert "NaN" in message(segdeploy("export", "--checkpoint", "nan", cwd=place))
    weight = np.full((3, 3), np.nan, np.float32)
    (place / "nan.onnx").write_bytes(little_model(weight=weight).SerializeToString())
    assert "NaN" in message(segdeploy("build-engine", "nan.onnx", cwd=place))
    assert not (place / "build" / "nan-fp32").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_full(built: Path, full_disk: Path) -> None:
    big = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    cv2.imwrite(str(built / "big.png"), big)
    for arguments in (
        ("build-engine", "build/little.onnx", "-o", full_disk / "engine", "--opt", "256x256"),
        ("run", "engine", "-s", "big.png", "-o", full_disk / "o.png"),
        ("export", "--variant", "b0", "--size", "64x64", "-o", full_disk / "m.onnx"),
    ):
        text = message(segdeploy(*arguments, cwd=built))
        assert "No space left" in text or "cannot write" in text
        assert str(full_disk) in text
        assert list(full_disk.iterdir()) == []


def test_a_file_size_limit_is_an_output_error(built: Path) -> None:
    done = segdeploy(
        "build-engine", "build/little.onnx", "-o", "limited", "--opt", "256x256",
        cwd=built,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    text = message(done)
    assert "limited" in text
    assert not (built / "limited").exists()


def test_no_write_permission(built: Path) -> None:
    # Even root may not create files here.
    closed = Path("/sys/segdeploy")
    if not closed.parent.is_dir():
        pytest.skip("no /sys on this system")
    for arguments in (
        ("build-engine", "build/little.onnx", "-o", closed),
        ("run", "engine", "-s", "frame.png", "-o", f"{closed}/o.png"),
        ("run", "engine", "-s", "frame.png", "--masks", closed),
    ):
        text = message(segdeploy(*arguments, cwd=built))
        assert str(closed) in text
        assert "choose" in text


def test_messages_have_all_three_parts(built: Path) -> None:
    done = segdeploy("bench", "nowhere", "--json", cwd=built)
    error = json.loads(done.stdout)["error"]
    assert error["found"]
    assert error["expected"]
    assert error["next"]
