"""Every name of the libraries that we use is there: in TensorRT-RTX, and in TensorRT 11.4."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from segformer_deploy.engine import trt as room
from segformer_deploy.engine.trt.flavour import FLAVOURS
from tests.engine.trt.api_walk import RTX, Names, Use, names_of, unknown, uses_of
from tests.engine.trt.proof import folder_with, rtx

SOURCES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted(Path(str(room.__file__)).parent.glob("*.py"))
}
NOT_LEAN = {"EngineInspector"}
"""The lean runtime has no inspector: it does not know the layers' names. TensorRT has; `layers`
is for people and never needed to run."""


@cache
def names_of_rtx() -> Names:
    rtx()
    return names_of("tensorrt_rtx")


@cache
def names_of_lean() -> Names:
    return names_of("tensorrt_lean", folder_with("tensorrt_lean"))


@cache
def uses() -> tuple[Use, ...]:
    return tuple(uses_of(SOURCES))


def test_all_names_are_in_one_of_the_libraries() -> None:
    assert unknown(uses(), names_of_rtx(), names_of_lean()) == []


def test_what_runs_a_plan_is_in_both() -> None:
    files = "runtime.py", "context.py"
    running = [use for use in uses() if use.file in files and not use.owner.startswith(RTX)]
    assert len(running) > 25
    assert unknown(running, names_of_rtx()) == []
    lean = [use for use in running if not {use.owner, use.name} & NOT_LEAN]
    assert unknown(lean, names_of_lean()) == []
    assert len(running) - len(lean) <= 2


def test_what_only_rtx_has_is_in_rtx() -> None:
    asked = [use for use in uses() if use.file == "validity.py" or use.owner.startswith(RTX)]
    assert {"get_engine_validity", "engine_header_size"} <= {use.name for use in asked}
    assert unknown(asked, names_of_rtx()) == []


def test_what_is_named_in_the_table_is_there() -> None:
    flags = FLAVOURS["tensorrt-rtx"].flags
    assert flags
    assert set(flags) <= names_of_rtx()["BuilderFlag"]
    assert FLAVOURS["tensorrt"].flags == ()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("", "Builder"),
        ("BuilderFlag", "TF32"),
        ("ILogger.Severity", "WARNING"),
        ("ILogger", "log"),
        ("IProgressMonitor", "step_complete"),
        ("IBuilderConfig", "max_aux_streams"),
        ("Builder", "build_serialized_network"),
        ("INetworkDefinition", "add_constant"),
        ("ILayer", "get_output"),
        ("IConvolutionLayer", "num_groups"),
        ("ITimingCache", "serialize"),
        ("ParserError", "node_operator"),
        ("ICudaEngine", "get_device_memory_size_for_profile_v2"),
        ("IExecutionContext", "set_device_memory"),
        ("IExecutionContext", "execute_async_v3"),
        (RTX + "IExecutionContext", "is_stream_capturable"),
        (RTX + "IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        (RTX + "DynamicShapesKernelSpecializationStrategy", "EAGER"),
    ],
)
def test_the_walk_sees_what_we_use(owner: str, name: str) -> None:
    assert (owner, name) in {(use.owner, use.name) for use in uses()}


PLANTED = {
    "one.py": """
def f(library, builder: trt.Builder, network: trt.INetworkDefinition | None, engine):
    api = library.api
    a = api.BuilderFlag.FP17                    # BuilderFlag.FP17
    b = api.Bulider(logger)                     # api.Bulider
    c = builder.platform_has_fast_fp16          # Builder.platform_has_fast_fp16
    levels = api.ILogger.Severity
    d = levels.FATAL                            # ILogger.Severity.FATAL
    made = api.Runtime(logger)
    made.deserialise()                          # Runtime.deserialise
    for layer in layers_of(network):
        layer.precision = 1                     # ILayer.precision
    names = [one.nmae for one in layers_of(network)]  # ILayer.nmae
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.int8_calibrator = None               # IBuilderConfig.int8_calibrator
    class _Log(api.ILogger):
        def logg(self): pass                    # ILogger.logg
    engine.get_location()
    plain.execute_async_v4()
def layers_of(network) -> Iterator[trt.ILayer]: ...
class A:
    def __init__(self, context: trt.IExecutionContext):
        self._kept, self.other = context, 1
        self._runtime: trt.Runtime = None
    def g(self):
        self._kept.execute_async_v4()           # IExecutionContext.execute_async_v4
        self._runtime.load()                    # Runtime.load
        self.library.api.NoSuchThing            # api.NoSuchThing
        self._api.OnnxParser.supports           # OnnxParser.supports
        cache: rtx.IRuntimeCash = config        # api.IRuntimeCash
        kept: rtx.IRuntimeCache = config
        kept.save()                             # IRuntimeCache.save
""",
    "two.py": """
def h(a):
    a._kept.enqueue(1)                          # IExecutionContext.enqueue
    a.other.enqueue(1)
""",
}


def test_planted_names_are_found() -> None:
    expected = [
        f"{file}:{number} {line.split('# ')[1]}"
        for file, text in PLANTED.items()
        for number, line in enumerate(text.splitlines(), 1)
        if "# " in line
    ]
    found = unknown(uses_of(PLANTED), names_of_rtx())
    assert sorted(found) == sorted(expected)
