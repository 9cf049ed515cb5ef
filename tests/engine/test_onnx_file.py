"""Our header reader against the onnx package, on whole and on broken files."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx
from segformer_deploy.errors import OnnxFileError, SegdeployError, SpecError
from tests.little import little_model, little_spec, write_little


def test_header_is_what_onnx_reads(tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    model = onnx.load(path)
    header = read_onnx_header(path)
    assert header.ir_version == model.ir_version
    assert header.producer == model.producer_name
    assert header.opset == model.opset_import[0].version
    assert header.node_count == len(model.graph.node)
    assert header.metadata == {p.key: p.value for p in model.metadata_props}
    (image,), (logits,) = header.inputs, header.outputs
    assert (image.name, image.dtype, image.shape) == ("image", "uint8", (None, None, None, 3))
    assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", (None, 3, None, None))


def test_spec_comes_back(tmp_path: Path) -> None:
    spec = little_spec(label_map={1: 0, 2: 1})
    assert spec_from_onnx(write_little(tmp_path / "m.onnx", spec)) == spec


def test_missing_empty_and_foreign_files_have_their_own_messages(tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.onnx", tmp_path / "text.onnx", tmp_path / "f.onnx"
    empty.touch()
    text.write_text("I am a poem about networks, not a network.\n" * 20)
    folder.mkdir()
    found = {}
    for path in (tmp_path / "missing.onnx", empty, text, folder):
        with pytest.raises(OnnxFileError) as caught:
            spec_from_onnx(path)
        found[path.name] = caught.value.found
    assert "does not exist" in found["missing.onnx"]
    assert "is empty" in found["empty.onnx"]
    assert "not an ONNX file" in found["text.onnx"]
    assert "is a folder" in found["f.onnx"]


def test_onnx_that_is_not_ours(tmp_path: Path) -> None:
    model = little_model()
    del model.metadata_props[:]
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="was not exported by segdeploy"):
        spec_from_onnx(path)


@given(st.floats(0, 0.999))
def test_a_cut_file_is_never_taken_for_a_whole_one(share: float) -> None:
    import tempfile

    whole = little_model().SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.onnx"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(OnnxFileError):
            spec_from_onnx(path)


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error_or_a_header(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.onnx"
        path.write_bytes(data)
        with pytest.raises(SegdeployError):
            spec_from_onnx(path)


def test_metadata_that_disagrees_with_the_graph(tmp_path: Path) -> None:
    spec = little_spec(class_names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(SpecError, match="2 classes"):
        spec_from_onnx(write_little(tmp_path / "m.onnx", spec))
    with pytest.raises(OnnxFileError, match="outputs"):
        spec_from_onnx(write_little(tmp_path / "n.onnx", little_spec(output="class_map")))


def test_own_operators_do_not_hide_the_opset(tmp_path: Path) -> None:
    model = little_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_onnx_header(path).opset == 20
