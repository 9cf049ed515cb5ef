"""The library's log: what is kept, counted and explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.engine.trt.journal import (
    ERROR,
    INFO,
    WARNING,
    Journal,
    explained,
    logger_for,
)
from tests.engine.trt.fake_trt import Severity, make_fake

BYTES = st.integers(0, 1 << 50)
DETAILED = (
    "Layers:\n"
    "Name: cast_a, LayerType: kgen, Inputs: [ { Name: image, Dimensions: [1,64,64,3], "
    "Strides: [12288,192,3,1], Datatype: UInt8, Format: (Linear) Row major }], Constants: [ { "
    "Name: mean, Dimensions: [3], Datatype: Float, Format: (Linear) }], Outputs: [ { Name: x, "
    "Dimensions: [1,3,64,64], Datatype: Half, Format: (NHWC) }, { Name: y [profile 1], "
    "Dimensions: [-1], Datatype: Int8, Format: (NHWC) }], TacticName: t, StreamId: 0\n"
    "Name: conv, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,64,64], "
    "Datatype: Half, Format: (NHWC) }], Outputs: [ { Name: logits, Dimensions: [1,3,16,16], "
    "Datatype: Float, Format: (Linear) }], TacticName: t, StreamId: 0\n"
    "\nBindings:\n Name: image, IOMode: Input, DataType: UInt8, Dimensions: [1,64,64,3]\n"
)


@pytest.mark.parametrize(
    ("warning", "meaning"),
    [
        ("Converting conv weight scales to fp32 for layer x", "the integers do not change"),
        ("Converting conv activation scales to FP32", "the integers do not change"),
        ("Running layernorm after self-attention in FP16 may cause overflow", "LayerNormalization"),
        ("Detected layernorm nodes in FP16: a, b", "LayerNormalization"),
        ("Using an engine plan file across different models of devices is not", "kind of GPU"),
        ("CUDA lazy loading is not enabled. Enabling it can reduce", "CUDA_MODULE_LOADING=LAZY"),
        ("CUDA driver version is insufficient for CUDA runtime version", "no usable GPU driver"),
        ("Some tactics do not have sufficient workspace memory to run", "--workspace"),
        ("Your ONNX model has been generated with INT64 weights", "32 bits"),
        ("DLA requests all profiles have same min, max, and opt value", "the GPU runs them"),
    ],
)
def test_known_warnings_are_explained(warning: str, meaning: str) -> None:
    assert meaning in explained(warning)
    assert "the library warns" not in explained(warning)


def test_an_unknown_warning_is_quoted_in_one_line() -> None:
    assert explained("what\n   is this") == "the library warns: what is this"
    assert len(explained("x" * 5000)) < 400


def test_warnings_of_one_kind_are_counted() -> None:
    journal = Journal()
    for layer in range(34):
        journal.add(WARNING, f"Converting conv weight scales to fp32: {layer}")
    journal.add(WARNING, "something else")
    first, second = journal.notes()
    assert first.endswith("(said 34 times)")
    assert second == "the library warns: something else"


def test_that_a_second_logger_exists_is_not_news() -> None:
    journal = Journal()
    journal.add(WARNING, "The logger passed into createInferBuilder differs from one already")
    journal.add(WARNING, "The logger passed into createInferRuntime differs from one already")
    assert journal.notes() == []


@given(st.lists(BYTES, min_size=1), st.lists(BYTES, min_size=1), st.sampled_from([" bytes", ""]))
def test_memory_is_the_largest_that_was_stated(
    activations: list[int], weights: list[int], unit: str
) -> None:
    journal = Journal()
    for number in activations:
        journal.add(INFO, f"Total Activation Memory: {number}{unit}")
    for number in weights:
        journal.add(INFO, f"[I] Total Weights Memory: {number}{unit}\n")
    assert journal.activation_memory_bytes == max(activations)
    assert journal.weights_memory_bytes == max(weights)


@given(st.text(max_size=80), st.sampled_from([INFO, WARNING, ERROR, "another"]))
def test_any_line_is_taken(text: str, severity: str) -> None:
    journal = Journal()
    journal.add(severity, text)
    assert journal.activation_memory_bytes is None
    assert journal.errors == ([text.strip()] if severity == ERROR else [])
    assert all(journal.notes())


@pytest.mark.parametrize(
    "line",
    [
        "Total Host Persistent Memory: 80 bytes",
        "Total Device Persistent Memory: 0 bytes",
        "Total Scratch Memory: 4194304 bytes",
        "Total number of blocks in optimized block assignment: 1",
        "Total Activation Memory: unknown",
    ],
)
def test_other_totals_are_not_these(line: str) -> None:
    journal = Journal()
    journal.add(INFO, line)
    assert (journal.activation_memory_bytes, journal.weights_memory_bytes) == (None, None)


def test_an_attempt_starts_without_the_last_ones_errors_and_figures() -> None:
    journal = Journal()
    journal.add(INFO, "Total Activation Memory: 900 bytes")
    journal.add(ERROR, " it failed\n")
    assert journal.forget_errors() == ["it failed"]
    assert journal.forget_errors() == []
    assert journal.activation_memory_bytes is None
    journal.add(INFO, "Total Activation Memory: 100 bytes")
    assert journal.activation_memory_bytes == 100


def test_layers_as_the_builder_tells_them() -> None:
    journal = Journal()
    journal.add(
        "verbose",
        "Engine Layer Information:\n"
        "Layer(Reformat): copy, Tactic: 0x00, image (UInt8[1,64,64,3]) -> x (Half[1,3,64,64])\n"
        "Layer(Convolution): a + b, Tactic: 0x1f, x (Half[1]), y (Half[2]) -> logits (Float[1])",
    )
    assert journal.layers == [
        {
            "kind": "Reformat",
            "name": "copy",
            "inputs": "image (UInt8[1,64,64,3])",
            "outputs": "x (Half[1,3,64,64])",
        },
        {
            "kind": "Convolution",
            "name": "a + b",
            "inputs": "x (Half[1]), y (Half[2])",
            "outputs": "logits (Float[1])",
        },
    ]


def test_layers_in_detail() -> None:
    journal = Journal()
    journal.add("verbose", DETAILED)
    assert journal.layers == [
        {
            "kind": "kgen",
            "name": "cast_a",
            "inputs": "image (UInt8[1,64,64,3])",
            "outputs": "x (Half[1,3,64,64]), y [profile 1] (Int8[-1])",
        },
        {
            "kind": "correlation",
            "name": "conv",
            "inputs": "x (Half[1,3,64,64])",
            "outputs": "logits (Float[1,3,16,16])",
        },
    ]


def test_the_logger_sorts_by_severity() -> None:
    api, journal = make_fake("10.3.0"), Journal()
    logger = logger_for(api, journal)
    assert isinstance(logger, api.ILogger)
    for severity in Severity:
        logger.log(severity, f"Total Weights Memory: {int(severity)}")
    logger.log("no severity at all", "x")
    assert journal.errors == ["Total Weights Memory: 0", "Total Weights Memory: 1"]
    assert journal.warnings == ["Total Weights Memory: 2"]
    assert journal.weights_memory_bytes == 4
