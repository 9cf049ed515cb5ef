"""One code builds with every release: what it asks for, what it keeps, how it gives up."""

from __future__ import annotations

import _thread
import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from segformer_deploy.engine.trt.build import MAX_BYPASSES, Plan, PlanOptions, plan_from_onnx
from segformer_deploy.engine.trt.flavour import Library, load_library
from segformer_deploy.errors import BackendError, BuildError
from tests.engine.trt.fake_builder import graph_of
from tests.engine.trt.fake_trt import PRECISIONS, RTX, TENSORRTS, VERSIONS, World, install
from tests.engine.trt.graphs import STATIC, graph_bytes, profile
from tests.little import little_model

LITTLE = little_model().SerializeToString()
QUERY = "stage2.block0.attention.query.product"
EMBED = "stage2.embed"
every = pytest.mark.parametrize("version", VERSIONS)
tensorrt = pytest.mark.parametrize("version", TENSORRTS)


@pytest.fixture
def library(version: str, monkeypatch: pytest.MonkeyPatch) -> Library:
    install(monkeypatch, version)
    return load_library("tensorrt-rtx" if version == RTX else "tensorrt")


@pytest.fixture
def world(library: Library) -> World:
    found: World = library.api.world
    return found


@pytest.fixture
def build(library: Library) -> Callable[..., Plan]:
    def with_options(onnx: bytes = LITTLE, say: Any = lambda _: None, **options: Any) -> Plan:
        given = {"profiles": (STATIC,), **options}
        return plan_from_onnx(library, onnx, PlanOptions(**given), say)

    return with_options


Make = Callable[..., Plan]


def always(world: World) -> set[str]:
    """What every plan is built with: a CUDA graph of an RTX plan may not allocate memory."""
    return {"REQUIRE_USER_ALLOCATION"} if world.rtx else set()


@every
def test_the_same_code_builds(build: Make, world: World) -> None:
    plan = build()
    (asked,) = world.builds
    assert asked.strongly_typed
    assert asked.flags == always(world), "FP32 is FP32: not even TF32 is left on"
    assert (asked.aux_streams, asked.level, asked.limits) == (0, 3, {})
    assert (asked.hardware, asked.verbosity, asked.capabilities) == ("NONE", "DETAILED", ())
    assert asked.timing_cache is None
    assert asked.profiles == (STATIC,)
    assert world.touched == []
    assert plan.activation_memory_bytes == 64 * 64 * 40 + 100
    assert plan.weights_memory_bytes == (9 + 3) * 4
    assert (plan.bypassed, plan.notes) == ((), ())
    assert [layer["kind"] for layer in plan.layers] == ["Cast", "Transpose", "AveragePool", "Conv"]
    assert graph_of(plan.data)[1] == little_model()


@every
def test_options_are_passed_on(build: Make, world: World) -> None:
    build(
        tf32=True,
        refit=True,
        version_compatible=True,
        workspace_bytes=123_456,
        aux_streams=3,
        level=5,
        profiles=(STATIC, profile((1, 64, 64), (1, 96, 96), (4, 128, 128))),
    )
    (asked,) = world.builds
    given = {"TF32", "REFIT", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}
    assert asked.flags == given | always(world)
    assert not asked.flags & set(PRECISIONS)
    assert asked.limits == {"WORKSPACE": 123_456}
    assert (asked.aux_streams, asked.level, len(asked.profiles)) == (3, 5, 2)


@tensorrt
def test_hardware_compatible(build: Make, world: World) -> None:
    build(hardware_compatible=True)
    assert world.builds[0].hardware == "AMPERE_PLUS"


@tensorrt
def test_a_capability_is_not_for_a_library_that_builds_for_its_gpu(
    build: Make, world: World
) -> None:
    with pytest.raises(BackendError, match=r"compute capability 8\.6") as caught:
        build(capabilities=("8.6",))
    assert "--compute-capability" in caught.value.next_step
    assert world.builds == []


@pytest.mark.parametrize("version", [RTX])
def test_capabilities_of_rtx(build: Make, world: World) -> None:
    build(capabilities=("7.5", "12.0"))
    build()
    assert [one.capabilities for one in world.builds] == [("SM75", "SM120"), ()]


@tensorrt
def test_timings_are_kept_and_reused(build: Make, world: World, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    build(timing_cache=path)
    first = path.read_bytes()
    build(timing_cache=path)
    assert world.builds[1].timing_cache == first
    assert path.read_bytes().startswith(first)
    assert len(path.read_bytes()) > len(first)


@tensorrt
@pytest.mark.parametrize("found", [b"", b"no cache", b"TIMINGS 9.0.0 5.3 +1"])
def test_timings_of_another_machine_are_begun_anew(
    build: Make, world: World, tmp_path: Path, found: bytes
) -> None:
    path = tmp_path / "timings"
    path.write_bytes(found)
    build(timing_cache=path)
    attached = world.builds[0].timing_cache
    assert attached is not None
    assert attached.startswith(f"TIMINGS {world.version} {world.cc}".encode())
    assert path.read_bytes().startswith(attached)


@pytest.mark.parametrize("version", [RTX])
def test_rtx_gets_no_timings_for_it_would_want_a_gpu(
    build: Make, world: World, tmp_path: Path
) -> None:
    world.gpu = False
    build(timing_cache=tmp_path / "timings")
    assert world.builds[0].timing_cache is None
    assert list(tmp_path.iterdir()) == []


@every
def test_what_cannot_be_built_goes_without(build: Make, world: World) -> None:
    world.unbuildable = {QUERY, EMBED}
    said: list[str] = []
    plan = build(graph_bytes("int8"), said.append)
    assert plan.bypassed == (QUERY, EMBED)
    assert len(world.builds) == 3
    assert [line.split(" cannot be built")[0] for line in said] == [
        f"Q/DQ at {QUERY}",
        f"Q/DQ at {EMBED}",
    ]
    assert all("Could not find any implementation" in line for line in said)
    # The weights came along, in the graph's type.
    _, model = graph_of(plan.data)
    node = next(node for node in model.graph.node if node.name == EMBED)
    (weight,) = (one for one in model.graph.initializer if one.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight)
    assert values.dtype == np.float16
    assert values.any()


@every
def test_attempts_are_bounded(build: Make, world: World) -> None:
    model = onnx.load_from_string(graph_bytes("int8"))
    products = [node.name for node in model.graph.node if node.name.endswith(".product")]
    assert len(products) > MAX_BYPASSES
    world.unbuildable = set(products)
    with pytest.raises(BuildError, match=f"after {MAX_BYPASSES} attempts") as caught:
        build(graph_bytes("int8"))
    assert len(world.builds) == MAX_BYPASSES
    tried = re.findall(r"[\w.]+\.product", caught.value.found.split("already taken out")[1])
    assert set(tried) == set(sorted(products)[:MAX_BYPASSES])


@every
def test_a_node_that_fails_without_its_pairs_too(build: Make, world: World) -> None:
    failure = f"Could not find any implementation for node {QUERY}."
    world.failures = [failure, failure]
    with pytest.raises(BuildError, match="already taken out at " + re.escape(QUERY)) as caught:
        build(graph_bytes("int8"))
    assert "--fp16" in caught.value.next_step
    assert len(world.builds) == 2


@every
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (f"Error Code 2: out of host memory at {QUERY}", "--fp16"),
        (f"Cuda Runtime at {QUERY} (cudaError 2: out of memory)", "needs a GPU"),
        (f"{QUERY}: no tactics within workspace limit", "--workspace"),
    ],
)
def test_other_errors_are_not_retried(build: Make, world: World, error: str, advice: str) -> None:
    world.failures = [error]
    with pytest.raises(BuildError, match=re.escape(error)) as caught:
        build(graph_bytes("int8"))
    assert advice in caught.value.next_step
    assert len(world.builds) == 1


@every
def test_more_memory_than_there_is(build: Make, world: World) -> None:
    world.failures = ["Error Code 2: OutOfMemory (Requested size was 68733425636 bytes.)"]
    with pytest.raises(BuildError, match="68733425636 bytes") as caught:
        build()
    assert "lower the largest size" in caught.value.next_step


@every
def test_an_error_that_names_nothing_of_ours(build: Make, world: World) -> None:
    world.failures = ["Could not find any implementation for node stage9.embed."]
    with pytest.raises(BuildError, match=r"stage9\.embed"):
        build(graph_bytes("int8"))
    assert len(world.builds) == 1


@every
def test_no_memory_figures_no_plan(build: Make, world: World) -> None:
    world.memory_lines = False
    with pytest.raises(BuildError, match="no memory figures") as caught:
        build()
    assert "Total Activation Memory" in caught.value.expected


@tensorrt
def test_a_builder_that_cannot_start(build: Make, world: World) -> None:
    world.gpu = False
    with pytest.raises(BackendError, match="cannot start its builder here") as caught:
        build()
    assert "CUDA driver version is insufficient" in caught.value.found
    assert "--backend tensorrt-rtx" in caught.value.next_step


@tensorrt
def test_a_builder_that_is_none(
    build: Make, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.api, "Builder", lambda logger: None)
    with pytest.raises(BackendError, match="no reason given"):
        build()


@pytest.mark.parametrize("version", [RTX])
def test_rtx_builds_without_a_gpu_and_refits_with_one(build: Make, world: World) -> None:
    world.gpu = False
    assert build().data
    with pytest.raises(BuildError) as caught:
        build(refit=True)
    assert "needs a GPU" in caught.value.next_step
    world.gpu = True
    assert build(refit=True).data


@every
def test_warnings_are_explained_and_counted(build: Make, world: World) -> None:
    world.warnings = ["Converting conv weight scales to fp32 at a"] * 2 + ["quite new"]
    notes = build().notes
    assert notes[0].endswith("the integers do not change (said 2 times)")
    assert notes[1:] == ("the library warns: quite new",)


@every
def test_a_graph_that_does_not_parse(build: Make, world: World) -> None:
    model = little_model()
    model.graph.node[3].op_type, model.graph.node[3].name = "Warp", "bend.it"
    with pytest.raises(BuildError, match=r"node 'bend\.it' \(Warp\)") as caught:
        build(model.SerializeToString())
    assert "--backend onnxruntime" in caught.value.next_step
    with pytest.raises(BuildError, match="cannot read the ONNX graph"):
        build(LITTLE[:50])
    assert world.builds == []


@every
def test_sizes_that_are_refused(build: Make) -> None:
    with pytest.raises(BuildError, match="refuses the sizes"):
        build(profiles=(profile((1, 96, 96), (1, 64, 64), (1, 96, 96)),))


@every
def test_ctrl_c_in_the_midst(build: Make, world: World, library: Library) -> None:
    steps: list[int] = []

    def step() -> None:
        if not steps:
            _thread.interrupt_main()
        steps.append(1)
        time.sleep(0.15)  # longer than we look away for

    world.on_step = step
    with pytest.raises(KeyboardInterrupt):
        build()
    count = len(steps)
    assert count < 5
    world.on_step = lambda: None
    assert build().data
    assert len(steps) == count, "the build that was stopped is not running any more"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@every
@pytest.mark.usefixtures("no_collector")
def test_no_builder_outlives_its_build(build: Make, world: World) -> None:
    """One freed later, in the midst of another build, would wait for that one for ever."""
    build()
    assert not world.builders
    world.failures = ["Error Code 10: no implementation", *["Error Code 1"] * 9]
    with pytest.raises(BuildError) as failed:
        build()
    assert not world.builders, "a traceback holds it"
    with pytest.raises(BuildError) as unread:
        build(b"junk")
    assert not world.builders
    world.failures = []
    world.on_step = lambda: 1 // 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError) as broken:
        build()
    assert not world.builders
    assert all(caught.tb for caught in (failed, unread, broken))


@every
def test_one_build_at_a_time(build: Make, world: World) -> None:
    inside, go_on = threading.Event(), threading.Event()
    alive: list[int] = []

    def step() -> None:
        alive.append(len(world.builders))
        inside.set()
        assert go_on.wait(30)

    world.on_step = step
    plans: list[Plan] = []
    both = [threading.Thread(target=lambda: plans.append(build())) for _ in range(2)]
    for thread in both:
        thread.start()
    assert inside.wait(30)
    time.sleep(0.2)
    assert len(world.builders) == 1, "the second has not even made its builder"
    go_on.set()
    for thread in both:
        thread.join(30)
    assert set(alive) == {1}
    assert len(plans) == 2
