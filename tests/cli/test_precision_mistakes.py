"""What `calibrate`, `build-engine` and `compare` refuse of a precision, and how they say it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.test_precision_commands import ANY_LOSS, ORT, Place, place
from tests.little import write_little

__all__ = ["place"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate",), "no frames were named to calibrate on"),
        (("calibrate", "--images", "none"), "none"),
        (("calibrate", "--images", "frames", "--method", "mean"), "method 'mean'"),
        (("calibrate", "--images", "frames", "--percentile", "3"), "percentile 3.0"),
        (("calibrate", "--images", "frames", "--opt", "huge"), "size 'huge'"),
        (("calibrate", "--images", "frames", "--gate-labels", "truth"), "--gate-labels truth"),
        (("calibrate", "none.onnx", "--images", "frames"), "none.onnx"),
        (("calibrate", "--images", "frames/f00.png"), "one picture"),
    ],
)
def test_calibrate_says_what_is_wrong(place: Place, arguments: tuple[str, ...], words: str) -> None:
    assert words in place(*arguments).message
    assert not Path("calibration").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fp16", "--int8"), "--fp16 and --int8 at once"),
        (("--onnx-only",), "--onnx-only without a precision"),
        (("--int8", "--gate-labels", "truth"), "--gate-labels truth without frames"),
        (("--fp16", "--report-labels", "truth"), "--report-labels truth without frames"),
        (("--int8", "--backend", "tensorrt"), "module 'tensorrt' is not installed"),
        (("--profile", "64x96"), "--profile without a plan"),
        (("--workspace", "1M", "--backend", "native"), "--workspace without a plan"),
        (("--int8", "--backend", "tflite"), "backend 'tflite'"),
        (("--int8", "--max-drop", "-1"), "largest drop of -1"),
        (("--int8", "--min-agreement", "101"), "least agreement of 101"),
        (("--int8", "--method", "mean"), "method 'mean'"),
        (("--int8",), "no frames were named"),
        (("--int8", "--calibration", "none"), "none"),
        (("--int8", "--onnx-only", "-o", "x.bin", "--calibration", "frames"), "x.bin"),
    ],
)
def test_contradictions_are_exit_code_1_with_one_message(
    place: Place, arguments: tuple[str, ...], words: str
) -> None:
    done = place("build-engine", *arguments)
    assert words in done.message
    assert "expected: " in done.message
    assert done.stdout == ""
    assert sorted(path.name for path in Path("build").iterdir()) == ["small.onnx"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "--samples", "0"),
        ("calibrate", "--no-such-option"),
        ("build-engine", "--int8", "--max-drop", "much"),
        ("build-engine", "--batch", "0"),
        ("compare", "a.onnx", "b.onnx", "--layers"),
    ],
)
def test_wrong_usage_is_exit_code_2(place: Place, arguments: tuple[str, ...]) -> None:
    assert place(*arguments).code == 2


@pytest.mark.parametrize(
    "arguments", [("--calibration", "frames"), ("--gate-labels", "truth"), ("--force",)]
)
def test_options_of_a_precision_without_one_are_refused(
    place: Place, arguments: tuple[str, ...]
) -> None:
    assert place("build-engine", *ORT, *arguments).code == 1


def test_an_unknown_backend_is_refused_for_the_graph_alone_too(place: Place) -> None:
    arguments = ("--int8", "--onnx-only", "--calibration", "frames", *ANY_LOSS)
    assert "tflite" in place("build-engine", *arguments, "--backend", "tflite").message


def test_after_the_graph_alone_the_fp32_graph_is_still_the_one_taken(place: Place) -> None:
    arguments = ("build-engine", "--int8", "--onnx-only", "--calibration", "frames", *ANY_LOSS)
    first = place(*arguments)
    assert (first.code, "int8, for a gpu" in first.stderr) == (0, True)
    assert place(*arguments).code == 0


def test_labels_that_are_all_void_are_told_as_no_score(place: Place) -> None:
    place.gate()
    for path in Path("truth").iterdir():
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    arguments = ("build-engine", "--fp16", "--onnx-only", *place.gate(), *ANY_LOSS)
    assert place(*arguments).code in (0, 1)


def test_layers_need_a_first_graph_that_reads(place: Place) -> None:
    done = place("compare", "none.onnx", "build/small.onnx", "--images", "frames", "--layers")
    assert "none.onnx" in done.message


@pytest.mark.parametrize("other", ["none.onnx", "little.onnx"])
def test_layers_need_a_second_graph_of_that_network(place: Place, other: str) -> None:
    write_little(Path("little.onnx"))
    assert place("compare", "build/small.onnx", other, "--images", "frames", "--layers").message
