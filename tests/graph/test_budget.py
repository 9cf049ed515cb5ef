"""No count rises unseen, and none falls without the gain being kept; and the guard of that.

Where this fails after a change of yours: `python benchmarks/budget.py` shows all counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import budget  # noqa: E402
from budget_frames import LARGE, allocations, count_frames  # noqa: E402
from budget_graphs import (  # noqa: E402
    CONFIGS,
    GRAPHS,
    SIZES,
    Counts,
    count_graph,
    exported,
    file_bytes,
)

from segformer_deploy.errors import BackendError, InputError, VerificationError  # noqa: E402
from segformer_deploy.model.deploy import deploy_form  # noqa: E402
from segformer_deploy.model.segformer import (  # noqa: E402
    Segformer,
    SegformerConfig,
    config_for,
)
from segformer_deploy.runtime import native  # noqa: E402
from segformer_deploy.runtime.host_segment import HostSegment  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from tests.model.tiny import MEAN, STD, TINY  # noqa: E402

Found = dict[str, Counts]
WHY = "a second copy makes the class map exact"


@pytest.fixture(scope="module")
def found() -> Found:
    return budget.counted()


def test_every_count_is_the_budgets(found: Found) -> None:
    budget.check(budget.compare(budget.read_budget()["counts"], found))


# Independent figures --------------------------------------------------------------------------


def macs_of_config(config: SegformerConfig, size: FrameSize, *, deployed: bool) -> int:
    """The paper's sections 3.1 and 3.2 written out: convolutions and matrix products.

    The published decode head joins four maps of D channels at stage 1's size and fuses them; in
    the deploy form that product is folded into each stage's projection.
    """
    height, width, before, total = size.height, size.width, 3, 0
    largest, D = 0, config.head_channels
    for stage, C in enumerate(config.widths):
        patch, stride = config.patch_sizes[stage], config.strides[stage]
        height, width = -(-height // stride), -(-width // stride)
        N = height * width
        largest = largest or N
        R = config.reductions[stage]
        M = (height // R) * (width // R)
        hidden = config.mlp_ratio * C
        reduce = M * C * C * R * R if R > 1 else 0
        attention = N * C * C + 2 * M * C * C + 2 * N * M * C + N * C * C
        ffn = 2 * N * C * hidden + 9 * N * hidden
        total += N * C * before * patch**2
        total += config.depths[stage] * (reduce + attention + ffn) + N * C * D
        before = C
    return total + largest * D * config.classes + (0 if deployed else largest * 4 * D * D)


@pytest.mark.parametrize(
    ("variant", "side", "giga"),
    [
        *(("b0", 512, 8.4), ("b1", 512, 15.9), ("b2", 512, 62.4)),
        *(("b3", 512, 79.0), ("b4", 512, 95.7), ("b5", 640, 183.3)),
    ],
)
def test_the_closed_form_is_the_papers(variant: str, side: int, giga: float) -> None:
    """Its Table 6, ADE20K: given with one decimal, which for B0 is 0.6 %."""
    config = config_for(variant, 150)
    macs = macs_of_config(config, FrameSize(side, side), deployed=False)
    assert macs / 1e9 == pytest.approx(giga, abs=0.05, rel=0.002)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_macs_are_the_closed_forms(name: str, size: FrameSize, found: Found) -> None:
    config = CONFIGS[name.removesuffix("-class-map")]
    assert found[name].values[f"macs.{size}"] == macs_of_config(config, size, deployed=True)


def test_initializers_are_the_deploy_forms_parameters(found: Found) -> None:
    state = deploy_form(Segformer(TINY), MEAN, STD).state_dict().values()
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in state)
    model = exported("tiny")
    shapes = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT64]
    numbers = sum(int(np.prod(one.dims)) for one in shapes)
    assert found["tiny"].values["bytes.initializers"] == parameters + 8 * numbers


def test_the_file_is_counted_without_its_labels(tmp_path: Path) -> None:
    model = exported("tiny")
    onnx.save(model, tmp_path / "tiny.onnx")
    labels = [model.producer_name, model.producer_version, model.doc_string]
    labels += [model.graph.doc_string]
    labels += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    length = sum(len(label.encode()) for label in labels)
    spared = (tmp_path / "tiny.onnx").stat().st_size - file_bytes(model)
    # Each label is preceded by its field's number and its length, a few bytes.
    assert length < spared <= length + 6 * len(labels)


# The guard ------------------------------------------------------------------------------------


@pytest.fixture
def agreed() -> dict[str, Any]:
    """The tiny graph's counts as a budget of its own."""
    return {"counts": {"tiny": dict(count_graph(exported("tiny")).values)}, "reasons": []}


def with_a_transpose() -> onnx.ModelProto:
    """The tiny graph with one more node: the image's layout changed once more than needed."""
    model = exported("tiny")
    first = next(node for node in model.graph.node if node.name == "frames.nchw")
    first.output[0] = "frames.twice"
    back = helper.make_node(
        "Transpose", ["frames.twice"], ["frames.nchw"], name="extra", perm=[0, 1, 2, 3]
    )
    position = list(model.graph.node).index(first)
    model.graph.node.insert(position + 1, back)
    onnx.checker.check_model(model)
    return model


def test_one_more_transpose_fails(agreed: dict[str, Any]) -> None:
    differences = budget.compare(agreed["counts"], {"tiny": count_graph(with_a_transpose())})
    changed = {one.what: one.found - one.budget for one in differences}
    image = 512 * 512 * 3 * 4
    assert changed.pop("tiny bytes.file") > 0
    assert changed == {
        "tiny nodes.all": 1,
        "tiny nodes.Transpose": 1,
        "tiny bytes.activations": image,
        "tiny movement.Transpose.nodes": 1,
        "tiny movement.Transpose.bytes": image,
        "tiny movement.all.nodes": 1,
        "tiny movement.all.bytes": image,
    }
    with pytest.raises(VerificationError) as caught:
        budget.check(differences)
    message = str(caught.value)
    now = agreed["counts"]["tiny"]["nodes.Transpose"]
    assert f"tiny nodes.Transpose: the budget is {now}, found {now + 1}: +1" in message
    assert 'python benchmarks/budget.py --write --reason "' in message


def test_a_fall_fails_too_and_asks_for_no_reason(agreed: dict[str, Any]) -> None:
    counts = Counts(dict(agreed["counts"]["tiny"]))
    counts.values["nodes.Transpose"] -= 2
    with pytest.raises(VerificationError, match=r"nodes\.Transpose.*: -2") as caught:
        budget.check(budget.compare(agreed["counts"], {"tiny": counts}))
    assert caught.value.next_step.endswith("python benchmarks/budget.py --write")


def test_a_kind_of_node_that_comes_or_goes_is_a_change(agreed: dict[str, Any]) -> None:
    counts = Counts(dict(agreed["counts"]["tiny"]))
    counts.values["nodes.Gather"] = 1
    del counts.values["nodes.Sub"]
    came, went = sorted(
        budget.compare(agreed["counts"], {"tiny": counts}), key=lambda one: one.what
    )
    assert (came.what, came.budget, came.found) == ("tiny nodes.Gather", 0, 1)
    assert (went.what, went.budget, went.found) == ("tiny nodes.Sub", 1, 0)
    assert came.needs_reason
    assert not went.needs_reason


def test_a_peak_names_its_node(agreed: dict[str, Any]) -> None:
    agreed["counts"]["tiny"]["bytes.peak_live"] -= 1
    (one,) = budget.compare(agreed["counts"], {"tiny": count_graph(exported("tiny"))})
    assert "(at stage1.block0.attention.softmax)" in str(one)


# The command ----------------------------------------------------------------------------------


class Command:
    """`benchmarks/budget.py` on a budget of its own, with counts that a test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: Found = {
            "a": Counts({"nodes.Add": 5, "bytes.file": 100}),
            "b": Counts({"n": 1}),
        }
        self.save({"counts": {case: one.values for case, one in self.found.items()}, "reasons": []})

    def save(self, content: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(content))

    def read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def __call__(self, *arguments: str) -> int:
        return int(budget.main([*arguments, "--budget", str(self.path)]))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    command = Command(tmp_path / "budget.json")
    monkeypatch.setattr(budget, "counted", lambda: deepcopy(command.found))
    yield command
    assert [one.name for one in tmp_path.iterdir()] == ["budget.json"], "no half-written file"


def test_what_is_agreed_passes(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["nodes.Add", "5", "5"] in lines


@pytest.mark.parametrize("reason", ["", "faster", "   two words  "])
def test_a_rise_without_a_reason_is_refused(
    command: Command, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = command.path.read_bytes()
    command.found["a"].values["nodes.Add"] = 6
    arguments = ["--reason", reason] if reason else []
    assert command("--write", *arguments) == 1
    assert command.path.read_bytes() == before
    assert "a nodes.Add: the budget is 5, found 6: +1" in capsys.readouterr().err


def test_a_rise_with_a_reason_is_written_beside_the_older_ones(command: Command) -> None:
    older = {"what": "b n", "from": 0, "to": 1, "why": "it was there first"}
    command.save({**command.read(), "reasons": [older]})
    command.found["a"].values["nodes.Add"] = 6
    command.found["a"].values["bytes.file"] = 90  # a fall beside it needs none
    assert command() == 1
    assert command("--write", "--reason", WHY) == 0
    content = command.read()
    assert content["counts"]["a"] == {"nodes.Add": 6, "bytes.file": 90}
    assert content["reasons"] == [older, {"what": "a nodes.Add", "from": 5, "to": 6, "why": WHY}]
    assert command() == 0


def test_a_fall_is_written_without_a_reason(command: Command) -> None:
    command.found["a"].values["nodes.Add"] = 4
    assert command() == 1
    assert command("--write") == 0
    assert command.read()["counts"]["a"]["nodes.Add"] == 4
    assert command.read()["reasons"] == []
    command.found["a"].values["nodes.Add"] = 5
    assert command("--write") == 1, "the gain stays won"


def test_a_case_that_comes_or_goes_needs_a_reason(command: Command) -> None:
    command.found["c"] = command.found.pop("b")
    assert command() == 1
    assert command("--write") == 1
    assert command("--write", "--reason", "another name says it better") == 0
    assert [one["what"] for one in command.read()["reasons"]] == ["b", "c"]
    assert list(command.read()["counts"]) == ["a", "c"]


def test_json_is_one_object(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command.found["a"].values["nodes.Add"] = 7
    assert command("--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["found"]["a"]["nodes.Add"] == 7
    assert printed["budget"]["a"]["nodes.Add"] == 5
    assert printed["differences"] == [{"what": "a nodes.Add", "budget": 5, "found": 7}]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"counts": {"a": {"n": "1"}}, "reasons": []}', '{"counts": {}}']
)
def test_a_budget_that_does_not_read_is_one_message(
    command: Command, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.path.write_text(content)
    assert command("--write", "--reason", WHY) == 1
    assert command.path.read_text() == content
    assert "does not read" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_budget(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = command.path.read_bytes()
    command.found["a"].values["nodes.Add"] = 4
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert command("--write") == 1
    assert command.path.read_bytes() == before


def test_a_reason_without_a_write_is_a_mistake(command: Command) -> None:
    with pytest.raises(SystemExit) as caught:
        command("--reason", WHY)
    assert caught.value.code == 2


# Allocations ----------------------------------------------------------------------------------


def test_allocations_are_counted_kept_or_not() -> None:
    kept: list[np.ndarray] = []

    def work() -> None:
        small = np.zeros(LARGE // 2, np.uint8)
        kept.append(np.zeros(3 * LARGE, np.uint8))
        for _ in range(2):
            gone = np.zeros(5 * LARGE, np.uint8)
            del gone
        np.add(kept[0], 1, out=kept[0])
        small += 1

    counts = allocations(work)
    assert counts.values == {"allocations": 3, "bytes": 13 * LARGE, "peak": 8 * LARGE}
    assert counts.notes["bytes"].count("test_budget.py:work") == 3


def test_an_array_that_a_line_makes_and_drops_is_seen() -> None:
    array = np.zeros(4 * LARGE, np.uint8)
    assert allocations(lambda: int((array + 1).max())).values["bytes"] == 4 * LARGE
    assert allocations(lambda: int(array.max())).values["allocations"] == 0


def test_a_new_input_buffer_per_frame_fails(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = HostSegment._prepared

    def forgetful(self: HostSegment, *arguments: Any) -> Any:
        self._input = np.empty((0, 0, 0, 3), np.uint8)
        return true(self, *arguments)

    monkeypatch.setattr(HostSegment, "_prepared", forgetful)
    counts = count_frames(tmp_path)
    before = {case: found[case].values for case in counts}
    differences = budget.compare(before, counts)
    risen = {one.what: one for one in differences}
    for case in counts:
        assert risen[f"{case} allocations"].found == 2
        assert "runtime/host_segment.py:_prepared" in str(risen[f"{case} bytes"])
    with pytest.raises(InputError, match="frame-native allocations"):
        budget.with_found({"counts": before, "reasons": []}, counts, differences, "")


def test_without_the_kernels_nothing_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, "numpy")
    with pytest.raises(BackendError, match="NumPy"):
        count_frames(tmp_path)
