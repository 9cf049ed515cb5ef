"""Going back to an earlier version of a packaged model: all of it, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segformer_deploy.errors import InputError, OutputError, SpecError
from segformer_deploy.serve.model_config import Serving
from segformer_deploy.serve.repository import Request, package_for_triton
from segformer_deploy.serve.use import use_version
from tests.serve.engines import as_plan, little_engine

LATEST = "version_policy {\n  latest {\n    num_versions: 1\n  }\n}\n"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Version 1: an ONNX network on the CPU, version 2: a plan; with other settings each."""
    root = tmp_path / "models"
    onnx = little_engine(tmp_path / "one", "a")
    plan = as_plan(little_engine(tmp_path / "two", "a"))
    first = Serving(instances=3, max_batch=6, delay_ms=5)
    package_for_triton(Request(onnx, root, network=True, serving=first))
    package_for_triton(Request(plan, root, version=2, network=True, serving=Serving(instances=4)))
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = [one for one in root.rglob("*") if one.is_file()]
    return {str(one.relative_to(root)): one.read_bytes() for one in files}


def only(version: int) -> str:
    return f"version_policy {{\n  specific {{\n    versions: [{version}]\n  }}\n}}\n"


def test_a_version_comes_back_with_its_configuration(models: Path) -> None:
    before = contents(models)
    used = use_version(models, "a", 1)
    assert (used.name, used.version, used.network) == ("a", 1, "a-network")
    front, network = ((models / name / "config.pbtxt").read_text() for name in ("a", "a-network"))
    assert only(1) in front
    assert only(1) in network
    assert "count: 3" in front
    assert "max_batch_size: 6" in front
    assert "max_queue_delay_microseconds: 5000" in front
    assert 'backend: "onnxruntime"' in network
    assert "KIND_CPU" in network
    assert "max_batch_size: 6" in network
    assert "the ONNX Runtime backend" in (models / "a" / "README.md").read_text()
    changed = {"a/config.pbtxt", "a/README.md", "a-network/config.pbtxt"}
    after = contents(models)
    assert after.keys() == before.keys(), "nothing is removed"
    assert {name for name in after if after[name] != before[name]} == changed


def test_and_forth_again(models: Path) -> None:
    before = contents(models)
    use_version(models, "a", 1)
    use_version(models, "a", 2)
    after = contents(models)
    assert {name for name in after if after[name] != before[name]} == {"a/config.pbtxt"}
    text = after["a/config.pbtxt"].decode()
    assert text.replace(only(2), LATEST) == before["a/config.pbtxt"].decode()


def test_a_new_version_is_taken_after_going_back(models: Path, tmp_path: Path) -> None:
    use_version(models, "a", 1)
    package_for_triton(Request(tmp_path / "one" / "a", models, version=3, network=True))
    assert LATEST in (models / "a" / "config.pbtxt").read_text()
    assert only(3) in (models / "a-network" / "config.pbtxt").read_text()
    use_version(models, "a", 2)
    assert 'backend: "tensorrt"' in (models / "a-network" / "config.pbtxt").read_text()


def test_what_cannot_be_gone_back_to(models: Path, tmp_path: Path) -> None:
    before = contents(models)
    with pytest.raises(InputError, match="has no version 3") as told:
        use_version(models, "a", 3)
    assert "1, 2" in told.value.expected
    for name in ("b", "a-network"):
        with pytest.raises(OutputError, match="is no model that segdeploy package wrote"):
            use_version(models, name, 1)
    assert contents(models) == before
    (models / "a-network" / "1").rename(tmp_path / "kept")
    with pytest.raises(InputError, match="a-network has no version 1"):
        use_version(models, "a", 1)
    (tmp_path / "kept").rename(models / "a-network" / "1")
    (models / "a-network").rename(models / "b-network")
    with pytest.raises(InputError, match="is not the network of the model 'a'"):
        use_version(models, "a", 1)
    (models / "b-network").rename(models / "a-network")
    assert contents(models) == before
    record = models / "a" / "1" / "segdeploy.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "network": "../x"}))
    with pytest.raises(InputError, match="is not the network"):
        use_version(models, "a", 1)
    record.write_text("{}")
    with pytest.raises(SpecError):
        use_version(models, "a", 1)


def test_a_version_without_a_configuration_of_its_own(models: Path) -> None:
    """As earlier releases wrote it."""
    (models / "a" / "1" / "config.pbtxt").unlink()
    before = contents(models)
    with pytest.raises(InputError, match="without a configuration of its own") as told:
        use_version(models, "a", 1)
    assert "--version 3" in told.value.next_step
    assert contents(models) == before
