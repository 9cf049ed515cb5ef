"""Weights are views into the mapped file, whose pages need not stay in memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segformer_deploy.engine.onnx_graph import read_onnx_graph

SIDE = 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    weight = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    graph = helper.make_graph([], "large", [], [], [numpy_helper.from_array(weight, "weight")])
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    onnx.save(helper.make_model(graph), path)
    return path, weight


def resident_kib(path: Path) -> int:
    """Of this process's mappings of `path`."""
    total = 0
    own = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            own = line.endswith(str(path))
        elif own and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_released_pages_leave_memory_and_read_the_same(large: tuple[Path, np.ndarray]) -> None:
    path, weight = large
    graph = read_onnx_graph(path)
    found = graph.weights["weight"]
    np.testing.assert_array_equal(found, weight)
    assert resident_kib(path) >= 4 * SIDE * SIDE // 1024
    graph.release()
    assert resident_kib(path) == 0
    np.testing.assert_array_equal(found, weight)
