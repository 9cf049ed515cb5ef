"""Whether a run may become a CUDA graph: TensorRT's always, RTX's where its context says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.driver import Driver, Stream
from segformer_deploy.engine.session import DeviceSession
from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.errors import RunError
from tests.engine.trt.fake_trt import RTX, MisuseError
from tests.engine.trt.machines import LITTLE, WIDE, Machine, every, expected
from tests.model.tiny import random_frames

rtx = pytest.mark.parametrize("machine", [RTX], indirect=True)
SHAPE = 1, 96, 128, 3
IMAGE = random_frames(1, 96, 128)


@dataclass
class Work:
    """One size of work on a stream of the caller's."""

    driver: Driver
    stream: Stream
    session: DeviceSession
    addresses: dict[str, int]

    def enqueue(self) -> None:
        self.session.enqueue(self.stream, self.addresses, SHAPE)

    def capturable(self) -> bool:
        return self.session.capturable(self.stream)

    def answer(self) -> Any:
        found = np.empty((1, 3, 24, 32), np.float32)
        self.driver.copy_out(found, self.addresses["logits"], self.stream)
        self.driver.synchronise(self.stream)
        return found


def work_on(machine: Machine, engine: TrtEngine) -> Work:
    driver = machine.world.open_driver()
    stream = driver.open_stream()
    memory = {"image": driver.allocate(IMAGE.nbytes, "frames")}
    memory["logits"] = driver.allocate(3 * 24 * 32 * 4, "logits")
    driver.copy_in(memory["image"].address, IMAGE, stream)
    addresses = {name: one.address for name, one in memory.items()}
    return Work(driver, stream, engine.session(), addresses)


@pytest.fixture
def work(machine: Machine) -> Iterator[Work]:
    made = work_on(machine, machine.engine(LITTLE, WIDE))
    yield made
    made.driver.synchronise(made.stream)
    made.session.close()


@every
def test_a_run_that_was_made_once_may_be_captured(work: Work) -> None:
    assert isinstance(work.session, DeviceSession)
    work.enqueue()
    assert work.capturable()
    graph = work.driver.capture(work.stream, work.enqueue)
    graph.launch(work.stream)
    np.testing.assert_array_equal(work.answer(), expected(LITTLE, IMAGE))


@rtx
def test_rtx_is_asked_about_what_is_bound(machine: Machine, work: Work) -> None:
    assert not work.capturable(), "nothing ran yet"
    work.enqueue()
    assert work.capturable()
    with pytest.raises(RunError):
        work.session.enqueue(work.stream, {"image": work.addresses["image"]}, SHAPE)
    assert not work.capturable(), "half-bound"
    work.enqueue()
    machine.world.capturable = False
    assert not work.capturable()
    with pytest.raises(RunError, match="did not start"):
        work.driver.capture(work.stream, work.enqueue)
    work.enqueue()
    np.testing.assert_array_equal(work.answer(), expected(LITTLE, IMAGE))


def test_tensorrt_has_nobody_to_ask(machine: Machine, work: Work) -> None:
    machine.world.capturable = False
    work.enqueue()
    assert work.capturable()


@rtx
def test_a_plan_that_allocates_while_it_runs_is_not_captured(machine: Machine) -> None:
    """One that was built before plans had the flag."""
    flavour = replace(machine.library.flavour, flags=())
    older = replace(machine, library=replace(machine.library, flavour=flavour))
    work = work_on(machine, older.engine(LITTLE, WIDE))
    work.enqueue()
    assert not work.capturable()
    np.testing.assert_array_equal(work.answer(), expected(LITTLE, IMAGE))


@rtx
def test_the_fake_sees_a_question_in_a_capture(work: Work) -> None:
    work.enqueue()
    with pytest.raises(MisuseError, match="in a capture"):
        work.driver.capture(work.stream, lambda: work.capturable() or None)


@every
def test_a_closed_session_is_not_asked(work: Work) -> None:
    work.session.close()
    with pytest.raises(RunError, match="a closed session"):
        work.capturable()
