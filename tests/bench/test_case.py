"""A case as JSON and as a name; its result has what `bench --json` had, and more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segformer_deploy.bench.case import Case, error_of, failed, sha256_of_engine
from segformer_deploy.errors import InputError, SpecError
from tests.little import write_little, write_little_outside

ADDED_KEYS = {"segdeploy", "case", "limit", "energy", "clocks", "accuracy", "error"}


def test_a_case_is_its_own_json() -> None:
    case = Case("a.onnx", variant="b0", size="64x96", threads=2, runs=3)
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_names() -> None:
    case = Case("x/a.onnx", variant="b0", precision="fp32", size="64x96", backend="native")
    assert case.name == "b0-64x96-fp32-native"
    assert Case("x/a.onnx", threads=2).name == "a-auto-t2"
    assert Case("x/a.onnx", label="mine", variant="b0").name == "mine-auto"


def test_what_is_no_case() -> None:
    with pytest.raises(SpecError, match="a case that does not read"):
        Case.from_dict({"engine": "a", "colour": "red"})
    with pytest.raises(SpecError):
        Case("a", size="huge")
    with pytest.raises(InputError, match="labels"):
        Case("a", images="frames")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_no_time_to_measure_for(seconds: float) -> None:
    with pytest.raises(InputError, match="seconds of measuring"):
        Case("a", seconds=seconds)


def test_a_failure_has_the_same_frame() -> None:
    case = Case("nowhere")
    result = failed(case, error_of(InputError("a", "b", "c")), limit={"mib": 1})
    assert result["error"] == {"kind": "InputError", "found": "a", "expected": "b", "next": "c"}
    assert result["case"] == case.to_dict()
    assert result["limit"] == {"mib": 1}
    assert set(result) >= ADDED_KEYS
    assert error_of(ValueError("odd"))["found"] == "odd"


def test_an_engine_is_known_by_its_bytes(tmp_path: Path) -> None:
    engine = write_little(tmp_path / "little.onnx")
    first = sha256_of_engine(engine)
    engine.write_bytes(engine.read_bytes() + b"\0")
    assert first != sha256_of_engine(engine)
    assert sha256_of_engine(tmp_path / "none.onnx") is None


def test_weights_in_another_file_belong_to_the_engine(tmp_path: Path) -> None:
    engine = write_little_outside(tmp_path / "outside.onnx")
    first = sha256_of_engine(engine)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert sha256_of_engine(engine) not in (first, None)
    weights.unlink()
    assert sha256_of_engine(engine) is None
