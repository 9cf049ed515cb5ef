"""Plans built by TensorRT-RTX itself, which needs no GPU for it, and what it refuses."""

from __future__ import annotations

import _thread
import threading
import time
from dataclasses import replace
from functools import cache

import pytest

from segformer_deploy.engine.trt.build import Plan, PlanOptions, plan_from_onnx
from segformer_deploy.errors import BackendError, BuildError
from tests.engine.trt.graphs import DYNAMIC, STATIC, graph_bytes, profile
from tests.engine.trt.proof import rtx
from tests.little import little_model

LITTLE = little_model().SerializeToString()


@cache
def plan(name: str, *profiles: int, streams: int = 0) -> Plan:
    """A plan of a tiny graph; 0 is the static profile, 1 the dynamic one."""
    chosen = tuple((STATIC, DYNAMIC)[index] for index in profiles)
    return plan_from_onnx(rtx(), graph_bytes(name), PlanOptions(chosen, aux_streams=streams))


def little(**options: object) -> Plan:
    given = {"profiles": (STATIC,), **options}
    return plan_from_onnx(rtx(), LITTLE, PlanOptions(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "index", "logits"),
    [("fp32", 0, "Float"), ("fp16", 0, "Half"), ("fp16", 1, "Half"), ("int8", 1, "Float")],
)
def test_a_tiny_network_builds(name: str, index: int, logits: str) -> None:
    built = plan(name, index)
    weights = len(graph_bytes(name))
    assert len(built.data) > weights
    assert built.bypassed == ()
    # What one product and one feature map need at least; nothing here is as large as 64 MB.
    assert 64 * 64 * 3 < built.activation_memory_bytes < 64_000_000
    assert weights / 4 < built.weights_memory_bytes < 4 * weights
    assert built.seconds > 0
    assert any(layer["inputs"].startswith("image (UInt8[") for layer in built.layers)
    assert any(f"logits ({logits}[" in layer["outputs"] for layer in built.layers)
    assert all("logger" not in note for note in built.notes)


def test_memory_figures_are_in_order() -> None:
    assert plan("fp16", 0).activation_memory_bytes < plan("fp32", 0).activation_memory_bytes
    assert plan("fp16", 0).weights_memory_bytes < plan("fp32", 0).weights_memory_bytes
    assert plan("fp16", 0).activation_memory_bytes < plan("fp16", 1).activation_memory_bytes


def test_what_a_cuda_graph_asks_for_costs_no_memory() -> None:
    """The flag is taken, seen by the builder, and states no more than a plan without it."""
    library = rtx()
    bare = replace(library, flavour=replace(library.flavour, flags=()))
    sizes = profile((1, 64, 64), (1, 256, 256), (2, 512, 512))
    for chosen in ((STATIC,), (DYNAMIC,), (sizes,)):
        for name in ("fp16", "fp32"):
            options, onnx = PlanOptions(chosen), graph_bytes(name)
            ours, other = (plan_from_onnx(one, onnx, options) for one in (library, bare))
            assert ours.activation_memory_bytes == other.activation_memory_bytes
            assert ours.weights_memory_bytes == other.weights_memory_bytes
            # Without it a plan also has what it needs to take memory while it runs.
            assert (len(ours.data) < len(other.data)) == (chosen != (STATIC,))


def test_more_streams_never_need_less() -> None:
    none, three = plan("fp16", 0), plan("fp16", 0, streams=3)
    assert none.activation_memory_bytes <= three.activation_memory_bytes


def test_scales_in_fp32_are_explained_once() -> None:
    (note,) = plan("int8", 1).notes
    assert note.startswith("the compiler holds the Q/DQ scales of convolutions in FP32")


def test_several_profiles_state_the_largest_memory() -> None:
    small, large = STATIC, profile((1, 1024, 2048))
    alone = little(profiles=(large,)).activation_memory_bytes
    assert little(profiles=(small,)).activation_memory_bytes < alone
    for order in ((small, large), (large, small)):
        both = little(profiles=order)
        assert both.activation_memory_bytes == alone
        assert len(both.layers) > len(little().layers)


def test_capabilities_are_built_for() -> None:
    default, one, two = (
        little(capabilities=names).data for names in ((), ("8.6",), ("7.5", "8.9"))
    )
    assert len({default[:64], one[:64], two[:64]}) == 3, "the headers say what they are for"
    assert len(two) > len(one)


def test_an_unknown_capability_is_refused_before_anything_is_built() -> None:
    with pytest.raises(BackendError, match=r"8\.7") as caught:
        plan_from_onnx(rtx(), b"not looked at", PlanOptions((STATIC,), capabilities=("8.7",)))
    assert "8.6, 8.9, 12.0" in caught.value.expected


def test_hardware_compatibility_is_not_rtx() -> None:
    with pytest.raises(BackendError, match="hardware-compatible") as caught:
        little(hardware_compatible=True)
    assert "8.0" in caught.value.expected


def test_options_that_change_little() -> None:
    for options in ({"tf32": True}, {"level": 0}, {"version_compatible": True}):
        assert little(**options).activation_memory_bytes > 0


def test_a_timing_cache_is_not_attached(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("timings") / "cache"
    assert little(timing_cache=path).data
    assert not path.exists()


def test_refit_says_that_it_needs_a_gpu() -> None:
    with pytest.raises(BuildError) as caught:
        little(refit=True)
    assert "needs a GPU" in caught.value.next_step
    assert "--refit" in caught.value.next_step


def test_too_little_workspace_says_so() -> None:
    with pytest.raises(BuildError, match="workspace limit") as caught:
        little(workspace_bytes=1 << 20)
    assert "--workspace" in caught.value.next_step


@pytest.mark.parametrize("domain", ["", "mine"])
def test_an_unknown_operation_is_named(domain: str) -> None:
    model = little_model()
    node = model.graph.node[3]
    node.op_type, node.name, node.domain = "Warp", "bend.it", domain
    if domain:
        model.opset_import.add(domain=domain, version=1)
    with pytest.raises(BuildError, match=r"node 'bend\.it' \(Warp\)") as caught:
        plan_from_onnx(rtx(), model.SerializeToString(), PlanOptions((STATIC,)))
    assert "knows the operation Warp" in caught.value.next_step


@pytest.mark.parametrize("data", [LITTLE[: len(LITTLE) // 2], b"junk" * 40], ids=["cut", "junk"])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(BuildError, match="cannot read the ONNX graph") as caught:
        plan_from_onnx(rtx(), data, PlanOptions((STATIC,)))
    assert "-1" not in caught.value.found


def test_no_bytes_at_all() -> None:
    with pytest.raises(BuildError):
        plan_from_onnx(rtx(), b"", PlanOptions((STATIC,)))


@pytest.mark.parametrize(
    "profiles",
    [(), ({"picture": STATIC["image"]},), (profile((1, 64, 64), (1, 32, 64), (1, 64, 64)),)],
    ids=["none", "another input", "out of order"],
)
def test_profiles_that_do_not_fit(profiles: object) -> None:
    with pytest.raises(BuildError, match=r"TensorRT-RTX 1\.\d") as caught:
        little(profiles=profiles)
    assert str(caught.value)


def test_ctrl_c_stops_a_build_and_the_next_one_works() -> None:
    pressed: list[float] = []

    def press_once(_: float) -> None:
        if not pressed:
            pressed.append(time.perf_counter())
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        plan_from_onnx(rtx(), graph_bytes("fp32"), PlanOptions((STATIC,)), advance=press_once)
    # The longest step: RTX compiles this whole network in one of half a second.
    assert time.perf_counter() - pressed[0] < 2
    assert "segdeploy-build" not in [thread.name for thread in threading.enumerate()]
    assert little().data


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    plan_from_onnx(rtx(), LITTLE, PlanOptions((STATIC,)), advance=told.append)
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] <= 1
