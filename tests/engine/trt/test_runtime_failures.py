"""What an engine or session says when the library refuses, memory ends or a plan is foreign."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.trt.flavour import load_library
from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.errors import BackendError, RunError
from tests.engine.trt.fake_trt import RTX, TENSORRTS, MisuseError, install
from tests.engine.trt.machines import (
    LITTLE,
    SMALL,
    WIDE,
    Machine,
    context_bytes,
    every,
    expected,
    shapes,
)
from tests.model.tiny import random_frames


@pytest.mark.parametrize("shape", [(1, 64, 97, 3), (4, 96, 96, 3), (1, 32, 64, 3)])
def test_out_of_all_profiles(machine: Machine, shape: tuple[int, ...]) -> None:
    session = machine.session(SMALL, WIDE)
    if shape == (1, 64, 97, 3):
        session = machine.session(SMALL)
    with pytest.raises(RunError) as caught:
        session.run({"image": np.zeros(shape, np.uint8)})
    batch, height, width, _ = shape
    assert caught.value.found == f"a batch of {batch} at {height}x{width}"
    assert "64x96" in caught.value.expected
    assert re.search(rf"build-engine .*{height}x{width}.*--batch {batch}", caught.value.next_step)
    image = random_frames(1, 64, 96)
    np.testing.assert_array_equal(session.run({"image": image})["logits"], expected(LITTLE, image))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"picture": np.zeros((1, 64, 96, 3), np.uint8)},
        {"image": np.zeros((64, 96, 3), np.uint8)},
        {"image": np.zeros((1, 64, 96, 3), np.float32)},
        {"image": np.zeros((1, 3, 64, 96), np.uint8)},
    ],
)
def test_inputs_that_are_none(machine: Machine, arrays: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="the input 'image' is"):
        machine.session(SMALL).run(arrays)


@every
@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("set_optimization_profile_async", "profile 0 is refused"),
        ("set_input_shape", "the shape (1, 64, 96, 3) is refused"),
        ("infer_shapes", "no shape for image"),
        ("set_tensor_address", "the buffer of 'image' is refused"),
        ("execute_async_v3", "a run on 1x64x96x3 did not start"),
    ],
)
def test_a_call_that_fails_is_named_and_leaks_nothing(
    machine: Machine, method: str, says: str
) -> None:
    session = machine.session(SMALL, WIDE)
    image = random_frames(1, 64, 96)
    machine.world.refuse = {method}
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            session.run({"image": image})
        assert says in caught.value.found
        assert machine.library.name in caught.value.found
        assert method == "infer_shapes" or f"{method}: Error Code 3" in caught.value.found
        assert "segdeploy" in caught.value.next_step
    machine.world.refuse = set()
    np.testing.assert_array_equal(session.run({"image": image})["logits"], expected(LITTLE, image))
    machine.world.refuse = {method}
    if method != "set_optimization_profile_async":
        with pytest.raises(RunError):
            session.run({"image": random_frames(1, 96, 96)})
    session.close()
    assert machine.device.held == 0
    assert machine.device.closed


def test_an_error_is_told_once(machine: Machine) -> None:
    session = machine.session(SMALL)
    image = random_frames(1, 64, 96)
    machine.world.refuse = {"execute_async_v3"}
    with pytest.raises(RunError, match="execute_async_v3"):
        session.run({"image": image})
    machine.world.refuse = {"infer_shapes"}
    session.close()
    with pytest.raises(RunError) as caught:
        machine.session(SMALL).run({"image": image})
    assert "execute_async_v3" not in caught.value.found


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("after", [False, True], ids=["at first", "later"])
def test_memory_that_runs_out_names_its_owner(machine: Machine, share: float, after: bool) -> None:
    image = random_frames(3, 160, 192)
    needed = image.nbytes + 3 * 3 * 40 * 48 * 4 + context_bytes(WIDE)
    machine.world.capacity = int(needed * share)
    engine = machine.engine(LITTLE, SMALL, WIDE)
    machine.world.capacity = None
    session = engine.session()
    if after:
        session.run({"image": random_frames(1, 64, 96)})
    machine.device.capacity = int(needed * share)
    with pytest.raises(RunError) as caught:
        session.run({"image": image})
    assert re.search(r"'(image|logits|activations)' of TensorRT 10\.3\.0", caught.value.found)
    # A smaller one still runs where it fits, and the large one once there is room.
    if share > 0.5:
        small = random_frames(1, 64, 96)
        np.testing.assert_array_equal(
            session.run({"image": small})["logits"], expected(LITTLE, small)
        )
    machine.device.capacity = None
    np.testing.assert_array_equal(session.run({"image": image})["logits"], expected(LITTLE, image))
    session.close()
    assert machine.world.held == 0


def changed(machine: Machine, plan: bytes, how: str) -> bytes:
    if how == "cut off":
        return plan[:-40]
    if how == "cut in its header":
        return plan[:20]
    if how == "empty":
        return b""
    if how == "another GPU":
        machine.world.cc = "8.9"
    if how == "no GPU":
        machine.world.gpu = False
    if how == "no plan":
        return b"something else" * 20
    return plan


@every
@pytest.mark.parametrize(
    "how", ["cut off", "cut in its header", "empty", "another GPU", "no plan", "no GPU"]
)
def test_plans_that_are_refused(machine: Machine, how: str) -> None:
    plan = machine.plan(LITTLE, SMALL)
    plan = changed(machine, plan, how)
    if how == "another GPU" and machine.world.rtx:
        TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver).close()
        return
    with pytest.raises(BackendError, match="refuses the plan: IRuntime") as caught:
        TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver)
    assert "build-engine" in caught.value.next_step
    assert machine.device.closed


@pytest.mark.parametrize("machine", TENSORRTS, indirect=True)
def test_a_portable_plan_runs_on_another_gpu(machine: Machine) -> None:
    plan = machine.plan(LITTLE, SMALL, hardware_compatible=True)
    machine.world.cc = "8.9"
    TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver).close()


def test_a_plan_for_named_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    api = install(monkeypatch, RTX)
    machine = Machine(load_library("tensorrt-rtx"), api.world)
    plan = machine.plan(LITTLE, SMALL, capabilities=("8.6", "8.9"))
    with pytest.raises(BackendError, match="incompatible device"):
        TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver)
    machine.world.cc = "8.9"
    TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver).close()


def older_and_newer(monkeypatch: pytest.MonkeyPatch, compatible: bool) -> Callable[[], None]:
    """Loads in 10.16.2 what 10.3.0 built."""
    api = install(monkeypatch, "10.3.0")
    old = Machine(load_library("tensorrt"), api.world)
    plan = old.plan(LITTLE, SMALL, version_compatible=compatible)
    api = install(monkeypatch, "10.16.2")
    library, world = load_library("tensorrt"), api.world
    return lambda: TrtEngine(library, plan, (SMALL,), world.open_driver).close()


def test_a_version_compatible_plan_holds_no_host_code(monkeypatch: pytest.MonkeyPatch) -> None:
    older_and_newer(monkeypatch, compatible=True)()
    with pytest.raises(BackendError, match="not compatible with this version"):
        older_and_newer(monkeypatch, compatible=False)()


def test_host_code_in_a_plan_is_never_run(machine: Machine) -> None:
    """Built by someone else: we leave the lean runtime out."""
    api = machine.library.api
    logger = api.Logger()
    builder = api.Builder(logger)
    network = builder.create_network(2)
    assert api.OnnxParser(network, logger).parse(LITTLE)
    config = builder.create_builder_config()
    config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    config.clear_flag(api.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *shapes(SMALL)["image"])
    config.add_optimization_profile(profile)
    plan = bytes(builder.build_serialized_network(network, config))
    with pytest.raises(BackendError, match="host code"):
        TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver)


def test_a_context_that_is_not_made(machine: Machine) -> None:
    engine = machine.engine(LITTLE, SMALL)
    machine.world.refuse = {"create_execution_context"}
    with pytest.raises(BackendError, match="create_execution_context"):
        engine.session()
    assert machine.device.closed
    machine.world.refuse = set()
    engine.session().close()


def test_the_fake_sees_what_the_real_one_would_crash_on(machine: Machine) -> None:
    """Else all of this proves nothing."""
    engine = machine.engine(LITTLE, SMALL)
    assert engine.engine is not None
    driver = machine.world.open_driver()
    stream = driver.open_stream()
    block = driver.allocate(1 << 20, "a test")
    start = -(-block.address // 256) * 256
    strategy = machine.library.api.ExecutionContextAllocationStrategy
    with pytest.raises(MisuseError, match="the library's own"):
        engine.engine.create_execution_context(strategy.STATIC)
    context = engine.engine.create_execution_context(strategy.USER_MANAGED)
    with pytest.raises(MisuseError, match="without a profile"):
        context.execute_async_v3(stream.handle)
    assert context.set_optimization_profile_async(0, stream.handle)
    with pytest.raises(MisuseError, match="not aligned"):
        context.set_device_memory(start + 8, 1000)
    context.set_device_memory(start, 10)
    with pytest.raises(MisuseError, match="the profile needs"):
        context.execute_async_v3(stream.handle)
    size = engine.engine.get_device_memory_size_for_profile_v2(0)
    context.set_device_memory(start + (1 << 20), size)
    with pytest.raises(MisuseError, match="no device memory"):
        context.execute_async_v3(stream.handle)
    context.set_device_memory(start, size)
    with pytest.raises(MisuseError, match="without addresses"):
        context.execute_async_v3(stream.handle)
    assert not context.set_input_shape("image", (1, 64, 97, 3))
    assert context.set_input_shape("image", (1, 64, 96, 3))
    context.set_tensor_address("image", block.address)
    context.set_tensor_address("logits", block.address + (1 << 20) - 8)
    assert context.execute_async_v3(stream.handle)
    with pytest.raises(MisuseError, match="no device memory"):
        driver.synchronise(stream)
    with pytest.raises(MisuseError, match="no open stream"):
        context.execute_async_v3(0)
