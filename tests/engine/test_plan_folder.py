"""What loads where: a TensorRT folder, damaged and carried about; nothing is deserialised first."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.cli import main as main_module
from segformer_deploy.cuda.device import Gpu, GpuReport
from segformer_deploy.engine import manifest as manifest_module
from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.engine.package import check_folder, check_runs_here, load_engine
from segformer_deploy.engine.plan_folder import is_plan
from segformer_deploy.engine.trt.build import PlanOptions, plan_from_onnx
from segformer_deploy.engine.trt.flavour import load_library
from segformer_deploy.errors import (
    BackendError,
    EngineFolderError,
    MismatchError,
    RunError,
)
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.plan import PlanRequest
from segformer_deploy.workflow.sizes import AskedSizes
from tests.engine.trt.fake_trt import install
from tests.little import little_model, little_spec, write_little
from tests.workflow.small import SIZE, saved, small_model

Array = npt.NDArray[Any]
NO_DRIVER = "there is no NVIDIA driver"


class Machine:
    """A machine with one release of TensorRT (the fake) and a GPU, or `sm` None and none."""

    def __init__(
        self, patch: pytest.MonkeyPatch, version: str = "10.3.0", sm: str | None = "8.7"
    ) -> None:
        self.patch, self.loads = patch, 0
        self.api = install(patch, version)
        self.world = self.api.world
        self.backend = "tensorrt-rtx" if self.world.rtx else "tensorrt"
        self.gpu(sm)
        patch.setattr("segformer_deploy.engine.plan_folder.open_driver", self.world.open_driver)
        deserialise = self.api.Runtime.deserialize_cuda_engine

        def counted(runtime: Any, plan: bytes) -> Any:
            self.loads += 1
            return deserialise(runtime, plan)

        patch.setattr(self.api.Runtime, "deserialize_cuda_engine", counted)

    def gpu(self, sm: str | None) -> None:
        report = GpuReport((), why_none=NO_DRIVER)
        if sm is not None:
            self.world.cc = sm
            major, minor = map(int, sm.split("."))
            report = GpuReport((Gpu(0, "fake GPU", (major, minor), 8 << 30, False, 8),))
        self.world.gpu = sm is not None
        for room in ("engine.here", "workflow.plan"):
            self.patch.setattr(f"segformer_deploy.{room}.find_gpus", lambda: report)

    def build(self, onnx: Path, output: Path, *, sizes: Any = None, **request: Any) -> Path:
        options = BuildOptions(
            self.backend, sizes or AskedSizes(), output=output, plan=PlanRequest(**request)
        )
        return build_engine(onnx, options).folder


def frames(count: int = 2, size: FrameSize = SIZE) -> list[Array]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (size.height, size.width, 3), np.uint8) for _ in range(count)]


def ort_maps(onnx: Path, pictures: list[Array]) -> list[Array]:
    with Segmenter(onnx, backend="onnxruntime") as segment:
        return [segment(picture) for picture in pictures]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1 << bit
    path.write_bytes(data)


def sealed(folder: Path, data: dict[str, Any]) -> None:
    """Write a manifest as someone would who knows how the seal is made."""
    data.pop("seal", None)
    data["seal"] = manifest_module._seal(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def manifest_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data


def type_in(monkeypatch: pytest.MonkeyPatch, command: str) -> int:
    """Run a command as an error message has it; its exit code."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b`, folders of two networks for TensorRT 10.3.0 on 8.7; `rtx`, one for RTX."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        machine.build(saved(root / "a.onnx"), root / "a")
        machine.build(saved(root / "b.onnx", small_model(2)), root / "b")
        little = write_little(root / "little.onnx")
        machine.build(little, root / "little")
        Machine(patch, "1.7.1", "8.9").build(root / "a.onnx", root / "rtx")
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "a", tmp_path / "engine"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine that the folders were built on."""
    return Machine(monkeypatch)


# ---- where it was built -------------------------------------------------------------------------


def test_it_loads_where_it_was_built(made: Path, folder: Path, here: Machine) -> None:
    with Segmenter(folder) as segment:
        assert segment.engine_name == "TensorRT 10.3.0 (fake device)"
        assert segment.note is None
        found = [segment(frame) for frame in frames()]
    for one, other in zip(found, ort_maps(made / "a.onnx", frames()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert here.loads == 1
    assert here.world.held == 0
    assert all(driver.closed for driver in here.world.drivers)


def test_asking_whether_it_runs_loads_nothing(folder: Path, here: Machine) -> None:
    assert check_runs_here(folder) == check_folder(folder)
    here.gpu(None)
    with pytest.raises(BackendError, match=NO_DRIVER):
        check_runs_here(folder)
    assert (here.loads, here.world.drivers) == (0, [])


def test_the_onnx_in_the_folder_runs_on_a_cpu(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with Segmenter(folder, backend="onnxruntime") as segment:
        assert segment.engine_name.startswith("onnxruntime")
        found = [segment(frame) for frame in frames()]
    for one, other in zip(found, ort_maps(made / "a.onnx", frames()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_flavour_than_it_was_built_for(folder: Path, here: Machine) -> None:
    with pytest.raises(BackendError, match="built for tensorrt, and tensorrt-rtx") as caught:
        load_engine(folder, EngineOptions(backend="tensorrt-rtx"))
    assert "--backend tensorrt-rtx" in caught.value.next_step
    assert here.loads == 0


# ---- the six damages ----------------------------------------------------------------------------

Damage = Callable[[Path, Path, pytest.MonkeyPatch], Machine]


def another_release(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    return Machine(patch, "10.16.2")


def another_gpu(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    return Machine(patch, sm="8.6")


def one_bit(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    flip(folder / "model.plan", 12345)
    return Machine(patch)


def half(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    plan = folder / "model.plan"
    plan.write_bytes(plan.read_bytes()[: plan.stat().st_size // 2])
    return Machine(patch)


def edited(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"8.7"', '"8.6"'))
    return Machine(patch, sm="8.6")


def from_elsewhere(folder: Path, made: Path, patch: pytest.MonkeyPatch) -> Machine:
    # Larger than what we know of its beginning, and of another size.
    stranger = (made / "rtx" / "model.plan").read_bytes() + b"more"
    (folder / "model.plan").write_bytes(stranger)
    return Machine(patch)


DAMAGES: dict[Damage, str] = {
    another_release: "was built with TensorRT 10.3.0, and 10.16.2 is installed",
    another_gpu: "was built for compute capability 8.7, and the fake GPU here has 8.6",
    one_bit: "has other content than was built",
    half: "bytes",
    edited: "was changed after the build",
    from_elsewhere: "is another file than the one that was built",
}


def error_of(
    damage: Damage, folder: Path, made: Path, patch: pytest.MonkeyPatch
) -> EngineFolderError:
    machine = damage(folder, made, patch)
    with pytest.raises(EngineFolderError) as caught:
        load_engine(folder)
    with pytest.raises(EngineFolderError) as asked:
        check_runs_here(folder)
    assert str(asked.value) == str(caught.value)
    assert machine.loads == 0
    assert machine.world.drivers == []
    return caught.value


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items())
def test_a_damage_is_named_before_anything_is_loaded(
    damage: Damage, message: str, folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(damage, folder, made, monkeypatch)
    assert message in error.found
    assert str(folder) in error.found
    assert error.expected
    assert error.next_step
    # Only what another build mends is a mismatch: --rebuild must not build from a broken copy.
    assert isinstance(error, MismatchError) == (damage in (another_release, another_gpu))


def test_no_two_damages_read_alike(made: Path, tmp_path: Path) -> None:
    said = []
    for index, damage in enumerate(DAMAGES):
        folder = Path(shutil.copytree(made / "a", tmp_path / str(index) / "engine"))
        with pytest.MonkeyPatch.context() as patch:
            error = error_of(damage, folder, made, patch)
        said.append((error.found, error.expected))
    for place in (0, 1):
        # Without the folder's own name, which differs anyhow.
        texts = {pair[place].split("/engine", 1)[-1] for pair in said}
        assert len(texts) == len(DAMAGES)


@settings(max_examples=60)
@given(offset=st.integers(0, 1 << 24), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(made: Path, offset: int, bit: int) -> None:
    plan = made / "b" / "model.plan"
    flip(plan, offset, bit)
    try:
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(patch)
            with pytest.raises(EngineFolderError, match=r"model\.plan has other content"):
                load_engine(made / "b")
            assert machine.loads == 0
    finally:
        flip(plan, offset, bit)


@pytest.mark.parametrize("name", ["model.onnx", "layers.json", "golden/0.frame.png"])
def test_a_flipped_bit_elsewhere_is_found(name: str, folder: Path, here: Machine) -> None:
    flip(folder / name, 7)
    with pytest.raises(EngineFolderError, match="other content") as caught:
        load_engine(folder)
    assert str(folder / name) in caught.value.found
    assert here.loads == 0


@pytest.mark.parametrize("size", [0, 10, 64, 4095, 4096, 4097])
def test_a_cut_plan_is_a_copy_that_is_not_whole(size: int, folder: Path, here: Machine) -> None:
    plan = folder / "model.plan"
    plan.write_bytes(plan.read_bytes()[:size])
    with pytest.raises(EngineFolderError, match=f"has {size} bytes") as caught:
        load_engine(folder)
    assert "not whole" in caught.value.expected
    assert here.loads == 0


def test_a_plan_from_elsewhere_of_the_same_size(made: Path, folder: Path, here: Machine) -> None:
    size = (folder / "model.plan").stat().st_size
    other = (made / "b" / "model.plan").read_bytes()[:size].ljust(size, b"\0")
    (folder / "model.plan").write_bytes(other)
    with pytest.raises(EngineFolderError, match="other content"):
        load_engine(folder)
    assert here.loads == 0


def test_a_missing_plan(folder: Path, here: Machine) -> None:
    (folder / "model.plan").unlink()
    with pytest.raises(EngineFolderError, match=r"is incomplete: model\.plan is missing"):
        load_engine(folder)
    assert here.loads == 0


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document, containers included."""
    if path:
        yield path
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*path, key))


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    if value is ...:
        del data[path[-1]]
    else:
        data[path[-1]] = value


def get(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


@settings(max_examples=80)
@given(data=st.data())
def test_any_edited_field_of_a_manifest_is_found(made: Path, data: st.DataObject) -> None:
    manifest = manifest_of(made / "little")
    path = data.draw(st.sampled_from(list(leaves(manifest))))
    old = get(manifest, path)
    value: Any = data.draw(st.sampled_from([None, 0, 1, "8.6", [], {}, True, "x", ...]))
    if value == old and type(value) is type(old):
        return
    put(manifest, path, value)
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        folder = Path(shutil.copytree(made / "little", Path(temporary) / "e"))
        (folder / "manifest.json").write_text(json.dumps(manifest))
        machine = Machine(patch)
        with pytest.raises(EngineFolderError, match=r"seal does not match|has format"):
            load_engine(folder)
        assert machine.loads == 0


# ---- a plan that no manifest vouches for ---------------------------------------------------------


def test_a_bare_plan_is_refused(made: Path, tmp_path: Path, here: Machine) -> None:
    plan = shutil.copy(made / "a" / "model.plan", tmp_path / "found.plan")
    with pytest.raises(EngineFolderError, match="a plan without a manifest") as caught:
        load_engine(Path(plan))
    assert "--trust" in caught.value.next_step
    assert here.loads == 0


def test_a_trusted_plan_runs(made: Path, tmp_path: Path, here: Machine) -> None:
    plan = Path(shutil.copy(made / "a" / "model.plan", tmp_path / "found.engine"))
    with Segmenter(plan, trust=True) as segment:
        assert segment.spec.class_names == tuple(f"class {index}" for index in range(7))
        assert segment.spec.resize.size == SIZE
        assert segment.note is not None
        assert f"{plan} is trusted" in segment.note
        found = [segment(frame) for frame in frames()]
        large = segment(frames(1, FrameSize(480, 640))[0])
    assert large.shape == (480, 640)
    for one, other in zip(found, ort_maps(made / "a.onnx", frames()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert here.loads == 1
    assert here.world.held == 0


def test_a_trusted_plan_takes_what_its_profile_takes(tmp_path: Path, here: Machine) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=ResizeRule("none", None)))
    sizes = AskedSizes(FrameSize.parse("96"), FrameSize.parse("64"), FrameSize.parse("128"), 2)
    here.build(onnx, tmp_path / "e", sizes=sizes)
    plan = Path(shutil.copy(tmp_path / "e" / "model.plan", tmp_path / "x.plan"))
    with Segmenter(plan, trust=True) as segment:
        assert segment.spec.resize.size == FrameSize.parse("96")
        assert len(segment(frames(2))) == 2
        with pytest.raises(RunError, match="a batch of 3"):
            segment(frames(3))
    with Segmenter(plan, trust=True, size=FrameSize.parse("160")) as segment:
        with pytest.raises(RunError, match="64x64 to 128x128"):
            segment(frames(1)[0])


def test_trust_does_not_reach_past_the_library(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Path(shutil.copy(made / "a" / "model.plan", tmp_path / "x.plan"))
    machine = Machine(monkeypatch, "10.16.2")
    with pytest.raises(BackendError, match="refuses the plan"):
        load_engine(plan, EngineOptions(trust=True))
    plan.write_bytes(b"")
    with pytest.raises(BackendError, match="refuses the plan"):
        load_engine(plan, EngineOptions(trust=True))
    assert all(driver.closed for driver in machine.world.drivers)


def test_trust_is_no_key_to_a_folder(folder: Path, here: Machine) -> None:
    flip(folder / "model.plan", 99)
    with pytest.raises(EngineFolderError, match="other content"):
        load_engine(folder, EngineOptions(trust=True))
    assert here.loads == 0


def _renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new if name == old else name
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


def _other_input(model: onnx.ModelProto) -> str:
    _renamed(model, "image", "pixel_values")
    return "pixel_values"


def _other_output(model: onnx.ModelProto) -> str:
    _renamed(model, "logits", "probabilities")
    return "image"


def _float_input(model: onnx.ModelProto) -> str:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return "image"


def _planes(model: onnx.ModelProto) -> str:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "w3"
    return "image"


@pytest.mark.parametrize("change", [_other_input, _other_output, _float_input, _planes])
def test_a_trusted_plan_of_another_kind(
    change: Callable[[onnx.ModelProto], str], tmp_path: Path, here: Machine
) -> None:
    model, shape = little_model(), (1, 64, 96, 3)
    ours = PlanOptions(({"image": (shape, shape, shape)},))
    plan = plan_from_onnx(load_library("tensorrt"), model.SerializeToString(), ours).data
    # The fake's plan: a header of 64 bytes, the length of its profiles, the profiles, the graph.
    length = int.from_bytes(plan[64:68], "little")
    facts = plan[68 : 68 + length].replace(b"image", change(model).encode())
    path = tmp_path / "theirs.plan"
    path.write_bytes(
        plan[:64] + len(facts).to_bytes(4, "little") + facts + model.SerializeToString()
    )
    with pytest.raises(EngineFolderError, match="has inputs") as caught:
        load_engine(path, EngineOptions(trust=True))
    assert "uint8 NHWC" in caught.value.expected
    assert all(driver.closed for driver in here.world.drivers)


def test_what_is_a_plan(tmp_path: Path, made: Path) -> None:
    for name, data, expected in (
        *(("a.plan", b"", True), ("a.engine", b"x", True), ("a.trt", b"", True)),
        *(("a.bin", b"vtrt1", True), ("a", b"ftrt", True), ("a.dat", b"FTRT", False)),
        *(("b.bin", b"", False), ("b", b"vtr", False)),
    ):
        (tmp_path / name).write_bytes(data)
        assert is_plan(tmp_path / name) is expected, name
    (tmp_path / "dir.plan").mkdir()
    assert not is_plan(tmp_path / "dir.plan")
    assert not is_plan(tmp_path / "none.plan")


def test_a_file_that_cannot_be_read_is_our_error(
    tmp_path: Path, here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.plan", "a.bin"):
        (tmp_path / name).write_bytes(b"vtrt")

    def refused(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    for name in ("a.plan", "a.bin"):
        with pytest.raises(EngineFolderError, match="cannot be read: Permission denied"):
            load_engine(tmp_path / name, EngineOptions(trust=True))
