"""What `segdeploy package` writes, adds to, and refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.engine.package import check_folder
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import EngineFolderError, InputError, OutputError, SpecError
from segformer_deploy.serve.earlier import read_record
from segformer_deploy.serve.model_config import HEADING, Serving
from segformer_deploy.serve.repository import Request, package_for_triton
from tests.little import NAMES, little_spec
from tests.serve.engines import as_plan, little_engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_engine(tmp_path_factory.mktemp("engines"))


def names(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def test_the_layout_of_a_model(engine: Path, tmp_path: Path) -> None:
    done = package_for_triton(Request(engine, tmp_path / "models"))
    model = tmp_path / "models" / "little"
    assert (done.folder, done.name, done.device, done.network) == (model, "little", "cpu", None)
    own = {f"1/engine/{name}" for name in names(engine)}
    assert names(model) == own | {
        "config.pbtxt", "labels.txt", "README.md", "1/model.py", "1/segdeploy.json",
        "1/config.pbtxt", "1/README.md",
    }  # fmt: skip
    assert check_folder(model / "1" / "engine") == check_folder(engine)
    assert (model / "labels.txt").read_text().splitlines() == list(NAMES)
    assert (model / "config.pbtxt").read_text().startswith(HEADING)
    record = read_record(model / "1")
    assert (record["spec"], record["network"]) == (little_spec(), None)
    assert record["engine"]["seal"] == read_manifest(engine).seal
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["little"]


def test_the_page_says_how_to_start(engine: Path, tmp_path: Path) -> None:
    package_for_triton(Request(engine, tmp_path))
    page = (tmp_path / "little" / "README.md").read_text()
    assert "docker run" in page
    assert 'pip install "segformer-deploy[cpu]"' in page
    assert "--gpus" not in page
    published = re.findall(r"-p (\S+)", page.partition("```sh")[2].partition("```")[0])
    assert published == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"], "Triton has no users"
    assert "a network that you trust" in page
    plan = as_plan(little_engine(tmp_path / "e"))
    package_for_triton(Request(plan, tmp_path, "in-front"))
    page = (tmp_path / "in-front" / "README.md").read_text()
    assert "--gpus all" in page
    assert "segformer-deploy[cpu,tensorrt,cuda]" in page
    package_for_triton(Request(plan, tmp_path, "beside", network=True))
    page = (tmp_path / "beside" / "README.md").read_text()
    assert "the TensorRT backend, of TensorRT 10.9.0.34" in page


def test_strangers_in_the_engine_folder_stay_there(tmp_path: Path) -> None:
    engine = little_engine(tmp_path / "e")
    (engine / "secret.txt").write_text("not ours")
    package_for_triton(Request(engine, tmp_path / "models"))
    assert not any("secret" in name for name in names(tmp_path / "models"))


def test_a_second_version_keeps_the_first(engine: Path, tmp_path: Path) -> None:
    package_for_triton(Request(engine, tmp_path))
    first = names(tmp_path / "little" / "1")
    with pytest.raises(InputError, match="has version 1") as told:
        package_for_triton(Request(engine, tmp_path))
    assert "--version 2" in told.value.next_step
    package_for_triton(Request(engine, tmp_path, version=7))
    assert names(tmp_path / "little" / "1") == first
    assert names(tmp_path / "little" / "7") == first
    check_folder(tmp_path / "little" / "1" / "engine")
    with pytest.raises(InputError, match="has version 7"):
        package_for_triton(Request(engine, tmp_path, version=3))


def test_versions_share_classes_and_kind(engine: Path, tmp_path: Path) -> None:
    package_for_triton(Request(engine, tmp_path))
    other = little_engine(tmp_path / "e", "little", class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="has other classes"):
        package_for_triton(Request(other, tmp_path, version=2))
    with pytest.raises(InputError, match="runs its own engine"):
        package_for_triton(Request(engine, tmp_path, version=2, network=True))
    assert sorted(one.name for one in (tmp_path / "little").glob("[0-9]")) == ["1"]


def test_somebody_elses_folder_is_left_alone(engine: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "little"
    theirs.mkdir()
    package_for_triton(Request(engine, tmp_path))  # an empty one may be taken
    theirs = tmp_path / "theirs"
    (theirs / "1").mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('name: "theirs"\n')
    for request in (
        Request(engine, tmp_path, "theirs"),
        Request(engine, tmp_path, "the", network=True),
    ):
        if request.network:
            theirs.rename(tmp_path / "the-network")
        with pytest.raises(OutputError, match="was not written by segdeploy package"):
            package_for_triton(request)
    assert (tmp_path / "the-network" / "config.pbtxt").read_text() == 'name: "theirs"\n'
    assert not (tmp_path / "the").exists()


def test_a_model_is_not_taken_for_a_network(engine: Path, tmp_path: Path) -> None:
    """A name that ends in -network is anybody's: nothing of it may be lost."""
    package_for_triton(Request(engine, tmp_path, "streets-network"))
    config = tmp_path / "streets-network" / "config.pbtxt"
    before = names(tmp_path), config.read_text()
    for version in (1, 2):
        with pytest.raises(OutputError, match="is not the network of the model 'streets'") as told:
            package_for_triton(Request(engine, tmp_path, "streets", version, network=True))
        assert "--name" in told.value.next_step
    assert (names(tmp_path), config.read_text()) == before
    # Nor where its configuration says so, as one that was copied by hand.
    package_for_triton(Request(engine, tmp_path, "roads", network=True))
    theirs = (tmp_path / "roads-network" / "config.pbtxt").read_text()
    config.write_text(theirs.replace("roads", "streets"))
    with pytest.raises(OutputError, match="is not the network of the model 'streets'"):
        package_for_triton(Request(engine, tmp_path, "streets", network=True))


def test_a_network_is_not_taken_for_a_model(engine: Path, tmp_path: Path) -> None:
    package_for_triton(Request(engine, tmp_path, "roads", network=True))
    before = names(tmp_path)
    for version in (1, 2):
        with pytest.raises(OutputError, match="is the network of the model 'roads'"):
            package_for_triton(Request(engine, tmp_path, "roads-network", version))
    (tmp_path / "roads-network").rename(tmp_path / "paths-network")
    with pytest.raises(OutputError, match="is not the network of the model 'paths'"):
        package_for_triton(Request(engine, tmp_path, "paths", network=True))
    (tmp_path / "paths-network").rename(tmp_path / "roads-network")
    assert names(tmp_path) == before


def test_a_version_of_the_network_that_is_there_is_not_written_over(
    engine: Path, tmp_path: Path
) -> None:
    for version in (1, 2, 3):
        package_for_triton(Request(engine, tmp_path, "a", version, network=True))
    for version in ("2", "3"):
        shutil.rmtree(tmp_path / "a" / version)
    with pytest.raises(InputError, match="a-network has version 3") as told:
        package_for_triton(Request(engine, tmp_path, "a", 2, network=True))
    assert "--version 4" in told.value.next_step
    package_for_triton(Request(engine, tmp_path, "a", 4, network=True))
    kept = {one.name for one in (tmp_path / "a-network").glob("[0-9]")}
    assert kept == {"1", "2", "3", "4"}


def test_the_network_beside_the_front(tmp_path: Path) -> None:
    plan = as_plan(little_engine(tmp_path / "e"))
    serving = Serving(instances=4, max_batch=16)
    done = package_for_triton(Request(plan, tmp_path / "m", network=True, serving=serving))
    assert (done.network, done.device) == ("little-network", "gpu")
    assert done.serving.max_batch == 4, "the plan takes no more"
    assert names(tmp_path / "m" / "little-network") == {
        "config.pbtxt", "labels.txt", "1/model.plan", "1/config.pbtxt",
    }  # fmt: skip
    copied = (tmp_path / "m" / "little-network" / "1" / "model.plan").read_bytes()
    assert copied == (plan / "model.plan").read_bytes()
    front = tmp_path / "m" / "little"
    assert "1/engine/model.plan" not in names(front), "the plan lies there once"
    assert "KIND_CPU" in (front / "config.pbtxt").read_text()
    assert "model_warmup" not in (front / "config.pbtxt").read_text(), "the network answers later"
    assert "KIND_GPU" in (tmp_path / "m" / "little-network" / "config.pbtxt").read_text()
    assert read_record(front / "1")["network"] == "little-network"
    package_for_triton(Request(plan, tmp_path / "m", version=2, network=True))
    assert {one.name for one in (tmp_path / "m" / "little-network").glob("[0-9]")} == {"1", "2"}


def test_a_killed_call_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = little_engine(tmp_path / "e")
    monkeypatch.setattr(
        "segformer_deploy.serve.repository._write_front",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        package_for_triton(Request(engine, tmp_path / "m", network=True))
    monkeypatch.undo()
    package_for_triton(Request(engine, tmp_path / "m", network=True))
    assert read_record(tmp_path / "m" / "little" / "1")["network"] == "little-network"


def test_a_killed_call_leaves_nothing_that_a_server_takes_for_a_model(
    engine: Path, tmp_path: Path
) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from segformer_deploy.serve import repository

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

repository._copy_engine = killed
engine, root, version = sys.argv[1:]
repository.package_for_triton(
    repository.Request(Path(engine), Path(root), version=int(version))
)
"""
    root = tmp_path / "models"

    def kill(version: int) -> None:
        words = [sys.executable, "-c", script, str(engine), str(root), str(version)]
        assert subprocess.run(words, cwd=ROOT, check=False, timeout=60).returncode == -9

    kill(1)
    assert list(root.iterdir()) == []
    assert len(list(tmp_path.glob(".models-little.*.partial"))) == 1
    package_for_triton(Request(engine, root))
    kill(2)
    assert [one.name for one in root.iterdir()] == ["little"]
    assert [one.name for one in (root / "little").glob("[0-9]")] == ["1"]
    package_for_triton(Request(engine, root, version=2))
    assert sorted(one.name for one in (root / "little").glob("[0-9]")) == ["1", "2"]
    assert [one.name for one in tmp_path.iterdir()] == ["models"], "and clears up after itself"


def test_a_repository_whose_parent_cannot_be_written(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    package_for_triton(Request(engine, tmp_path / "models"))
    package_for_triton(Request(engine, tmp_path / "models", version=2))
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["little"]
    check_folder(tmp_path / "models" / "little" / "2" / "engine")


def test_what_cannot_be_packaged(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an ONNX file") as told:
        package_for_triton(Request(engine.parent / "little.onnx", tmp_path))
    assert "build-engine" in told.value.next_step
    with pytest.raises(EngineFolderError, match="does not exist"):
        package_for_triton(Request(tmp_path / "none", tmp_path))
    for name in ("a/b", "../up", ".hidden", "ä", "a b"):
        with pytest.raises(InputError, match="model name"):
            package_for_triton(Request(engine, tmp_path, name))
    with pytest.raises(InputError, match="version 0"):
        package_for_triton(Request(engine, tmp_path, version=0))
    with pytest.raises(InputError, match="holds a plan"):
        plan = as_plan(little_engine(tmp_path / "e"))
        package_for_triton(Request(plan, tmp_path, gpu=False))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as told_:
        package_for_triton(Request(engine, tmp_path / "file" / "models"))
    assert "--triton" in told_.value.next_step
    assert sorted(one.name for one in tmp_path.iterdir()) == ["e", "file"]


def test_tiles_have_no_network_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = little_engine(tmp_path / "e")
    manifest = read_manifest(engine)
    tiled = replace(manifest, tiling=type("T", (), {"tiling": Tiling.__name__})())
    monkeypatch.setattr("segformer_deploy.serve.repository.check_folder", lambda _: tiled)
    with pytest.raises(InputError, match="segments by tiles"):
        package_for_triton(Request(engine, tmp_path / "m", network=True))


def test_a_record_that_does_not_read(engine: Path, tmp_path: Path) -> None:
    package_for_triton(Request(engine, tmp_path))
    record = tmp_path / "little" / "1" / "segdeploy.json"
    for text in ("", "{}", "[]", '{"format": 2}', record.read_text().replace('"spec"', '"x"')):
        record.write_text(text)
        with pytest.raises(SpecError, match="does not read"):
            read_record(record.parent)


def test_the_command(engine: Path, tmp_path: Path) -> None:
    words = ["package", str(engine), "--triton", "models", "--name", "streets", "--json"]
    words += ["--instances", "2", "--max-batch", "3", "--delay-ms", "0.5"]

    packaging = list(words)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "segformer_deploy", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "model": "streets", "version": 1, "folder": "models/streets", "network": None,
        "device": "cpu", "instances": 2, "max_batch": 3, "delay_ms": 0.5,
    }  # fmt: skip
    assert "WARNING: the weights are random" in done.stderr
    config = (tmp_path / "models" / "streets" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 500" in config
    going_back = ["package", "--triton", "models", "--name", "streets", "--use", "1", "--json"]
    words[:] = going_back
    back = run()
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout) == {
        "model": "streets", "version": 1, "folder": "models/streets", "network": None,
    }  # fmt: skip
    for more, found in (
        (["--instances", "2"], "--instances beside --use"),
        ([str(engine)], "ENGINE beside --use"),
        (["--max-batch", "8"], "--max-batch beside --use"),
        (["--cpu"], "--gpu or --cpu beside --use"),
    ):
        words[:] = [*going_back, *more]
        wrong = run()
        assert wrong.returncode == 1
        assert found in wrong.stderr
    words[:] = [*going_back[:3], "--use", "1"]
    assert "--use without a model" in run().stderr
    words[:] = packaging
    again = run()
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    assert json.loads(again.stdout)["error"]["kind"] == "InputError"
