"""The machine that tests of running share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segformer_deploy.engine.trt.flavour import load_library
from tests.engine.trt.fake_trt import RTX, install
from tests.engine.trt.machines import Machine


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    version = getattr(request, "param", "10.3.0")
    api = install(monkeypatch, version)
    machine = Machine(load_library("tensorrt-rtx" if version == RTX else "tensorrt"), api.world)
    yield machine
    assert machine.world.touched == []
