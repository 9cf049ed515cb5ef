"""What RTX compiles at load is kept in the user's cache, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.engine.trt.runtime import TrtEngine
from tests.engine.trt.fake_rtx import RtxCudaEngine
from tests.engine.trt.fake_trt import RTX, AllocationStrategy
from tests.engine.trt.machines import LITTLE, SMALL, Machine, expected
from tests.model.tiny import random_frames

rtx = pytest.mark.parametrize("machine", [RTX], indirect=True)


def run(machine: Machine, cache: Path | None) -> None:
    """Load the little plan, segment a frame, close."""
    plan = machine.plan(LITTLE, SMALL)
    engine = TrtEngine(machine.library, plan, (SMALL,), machine.world.open_driver, cache)
    session = engine.session()
    image = random_frames(1, 64, 96)
    answer = session.run({"image": image})["logits"]
    np.testing.assert_array_equal(answer, expected(LITTLE, image))
    session.close()
    engine.close()
    assert machine.world.held == 0
    assert machine.world.fallbacks == 0


@rtx
def test_the_next_load_compiles_nothing(machine: Machine, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "plan.cache"
    run(machine, cache)
    first = cache.read_bytes()
    compiled = machine.world.compiled
    assert compiled
    run(machine, cache)
    assert machine.world.compiled == compiled
    assert cache.read_bytes() == first


@rtx
@pytest.mark.parametrize("content", [b"", b"CACHE 1.2.0 8.6 kernel", b"\0" * 1000])
def test_a_foreign_or_damaged_cache_is_written_over(
    machine: Machine, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "plan.cache"
    cache.write_bytes(content)
    run(machine, cache)
    assert cache.read_bytes().endswith(b"kernel")
    assert cache.read_bytes() != content


@rtx
def test_without_a_place_for_it_the_plan_runs_all_the_same(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    run(machine, tmp_path / "file" / "plan.cache")
    run(machine, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@rtx
def test_the_fake_sees_a_context_that_specialises_lazily(machine: Machine) -> None:
    """Which is what RTX does unless told otherwise, with or without a configuration."""
    user_managed = AllocationStrategy.USER_MANAGED
    session = machine.session(SMALL)
    engine: RtxCudaEngine = session._cuda_engine
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(user_managed)
    for lazy in (config, user_managed):
        session = machine.session(SMALL)
        session._context = session._cuda_engine.create_execution_context(lazy)
        before = machine.world.fallbacks
        session.run({"image": random_frames(1, 64, 96)})
        assert machine.world.fallbacks == before + 1


def test_tensorrt_has_no_such_cache(machine: Machine, tmp_path: Path) -> None:
    run(machine, tmp_path / "plan.cache")
    assert list(tmp_path.iterdir()) == []
