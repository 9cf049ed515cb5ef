"""Every call to TensorRT, type-checked against the types that are published for 10.13."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.trt.proof import folder_with
from tests.engine.trt.stub_types import errors_of, named

RTX_FILES = ("validity.py",)
"""Asks what only TensorRT-RTX can answer; test_api_walk holds it against that."""
RTX_CALLS = ("num_compute_capabilities", "set_compute_capability", "ComputeCapability")
"""Called where the flavour has capabilities to name: that is TensorRT-RTX."""
PLANTED = """
def planted(api: Any, context: trt.IExecutionContext, config: trt.IBuilderConfig) -> None:
    context.execute_async_v4(1)
    context.set_tensor_address("image")
    context.set_input_shape(1, (1, 2))
    config.set_flag(api.BuilderFlag.FP17)
    api.Runtime()
"""


@pytest.mark.timeout(120)
def test_our_calls_fit_the_published_types(tmp_path: Path) -> None:
    stubs = folder_with("tensorrt_bindings")
    errors = errors_of(tmp_path, stubs, left_out=RTX_FILES, plant=PLANTED)
    planted = [line for line in errors if "runtime.py" in line]
    ours = [line for line in errors if line not in planted]
    assert [line for line in ours if not any(f'"{name}"' in line for name in RTX_CALLS)] == []
    assert len(ours) == len(RTX_CALLS), "calls of RTX alone, which the types do not know"
    expected = ("execute_async_v4", "set_tensor_address", "set_input_shape", "FP17", "Runtime")
    assert len(planted) == len(expected), planted
    for name, line in zip(expected, planted, strict=True):
        assert name in line, "the check sees what is wrong, and in runtime.py nothing but this"


def test_the_module_takes_the_place_of_its_value() -> None:
    source = (
        "def f(api: Any, x: int) -> None:\n    x\n    g(api.A)\n"
        "def h(self) -> None:\n    api, y = self.library.api, 2\n    z = library.api\n"
        "    api = self._api\n"
    )
    assert named(source) == (
        "def f(api_given: Any, x: int) -> None:\n    import tensorrt as api\n    x\n"
        "    g(api.A)\n\n"
        "def h(self) -> None:\n    import tensorrt as api\n    y, = (2,)\n    z = library.api\n"
        "    import tensorrt as api"
    )
