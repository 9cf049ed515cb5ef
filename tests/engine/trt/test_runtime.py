"""Engines and sessions on device memory that is host memory: answers, sizes, who holds what."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from segformer_deploy.engine.session import Engine, Session, TensorInfo
from segformer_deploy.errors import RunError
from segformer_deploy.graph.append_class_map import append_class_map
from tests.engine.trt.graphs import graph_bytes
from tests.engine.trt.machines import (
    LARGE,
    LITTLE,
    SMALL,
    WIDE,
    Machine,
    context_bytes,
    every,
    expected,
)
from tests.little import little_model
from tests.model.tiny import random_frames


@every
@pytest.mark.parametrize("graph", ["fp32", "fp16", "int8"])
def test_logits_are_those_of_the_graph(machine: Machine, graph: str) -> None:
    data = graph_bytes(graph)
    engine = machine.engine(data, WIDE)
    assert isinstance(engine, Engine)
    dtype = "float16" if graph == "fp16" else "float32"
    assert engine.inputs == (TensorInfo("image", "uint8", (None, None, None, 3)),)
    assert engine.outputs == (TensorInfo("logits", dtype, (None, 7, None, None)),)
    assert engine.name == f"{machine.library.name} (fake device)"
    session = engine.session()
    assert isinstance(session, Session)
    for seed, (batch, height, width) in enumerate([(1, 96, 128), (2, 70, 90), (1, 160, 192)]):
        image = random_frames(batch, height, width, seed)
        answer = session.run({"image": image})
        assert list(answer) == ["logits"]
        np.testing.assert_array_equal(answer["logits"], expected(data, image))
        assert answer["logits"].dtype == dtype
    session.close()
    engine.close()
    assert machine.world.held == 0


def test_a_class_map_comes_out_as_one(machine: Machine) -> None:
    graph = append_class_map(little_model()).SerializeToString()
    engine = machine.engine(graph, WIDE)
    (output,) = engine.outputs
    assert (output.name, output.shape) == ("class_map", (None, None, None))
    image = random_frames(2, 96, 128)
    answer = engine.session().run({"image": image})["class_map"]
    assert answer.shape == (2, 96, 128)
    np.testing.assert_array_equal(answer, expected(graph, image, "class_map"))


def test_an_image_in_pieces_is_taken_as_it_looks(machine: Machine) -> None:
    image = random_frames(1, 64, 192)[:, :, ::2]
    assert not image.flags.c_contiguous
    answer = machine.session(SMALL).run({"image": image})["logits"]
    np.testing.assert_array_equal(answer, expected(LITTLE, np.ascontiguousarray(image)))


def test_buffers_are_reused_while_the_shape_stays(machine: Machine) -> None:
    session = machine.session(WIDE)
    first = session.run({"image": random_frames(1, 96, 128)})["logits"]
    kept, held = first.copy(), machine.device.held
    image = random_frames(1, 96, 128, seed=1)
    second = session.run({"image": image})["logits"]
    assert second is first
    np.testing.assert_array_equal(second, expected(LITTLE, image))
    assert (second != kept).any()
    session.run({"image": random_frames(1, 64, 64)})
    assert machine.device.held == held, "a smaller size fits where a larger one was"
    larger = random_frames(3, 160, 192)
    np.testing.assert_array_equal(
        session.run({"image": larger})["logits"], expected(LITTLE, larger)
    )
    # The blocks of the smaller sizes went back.
    answer = 3 * 3 * 40 * 48 * 4
    assert machine.device.held == larger.nbytes + answer + context_bytes(WIDE)


def test_the_narrowest_profile_is_used_and_paid_for(machine: Machine) -> None:
    session = machine.session(LARGE, SMALL, WIDE)
    image = random_frames(1, 64, 96)
    session.run({"image": image})
    answer = 3 * 16 * 24 * 4
    assert machine.device.held == image.nbytes + answer + context_bytes(SMALL)
    session.run({"image": random_frames(1, 96, 96)})
    session.run({"image": random_frames(1, 64, 96)})
    image = random_frames(2, 512, 512)
    np.testing.assert_array_equal(session.run({"image": image})["logits"], expected(LITTLE, image))
    assert machine.world.runs == [(1, 64, 96, 3), (1, 96, 96, 3), (1, 64, 96, 3), (2, 512, 512, 3)]
    assert machine.device.held > context_bytes(LARGE)
    session.close()
    assert machine.device.held == 0


@pytest.mark.parametrize(
    ("shape", "index"),
    [((1, 64, 96, 3), 1), ((2, 64, 96, 3), 2), ((1, 65, 96, 3), 2), ((4, 512, 512, 3), 0)],
)
def test_profiles_by_shape(machine: Machine, shape: tuple[int, ...], index: int) -> None:
    assert machine.engine(LITTLE, LARGE, SMALL, WIDE).profile_for(shape) == index


@every
def test_two_sessions_do_not_disturb_each_other(machine: Machine) -> None:
    engine = machine.engine(graph_bytes("fp32"), WIDE)
    one, two = engine.session(), engine.session()
    a, b = random_frames(1, 96, 128, seed=1), random_frames(2, 64, 96, seed=2)
    first = one.run({"image": a})["logits"]
    second = two.run({"image": b})["logits"]
    np.testing.assert_array_equal(first, expected(graph_bytes("fp32"), a))
    np.testing.assert_array_equal(second, expected(graph_bytes("fp32"), b))
    one.close()
    np.testing.assert_array_equal(two.run({"image": b})["logits"], second)
    engine.close()
    two.close()
    assert machine.world.held == 0
    assert all(driver.closed for driver in machine.world.drivers)


def test_closing_twice_and_using_what_is_closed(machine: Machine) -> None:
    engine = machine.engine(LITTLE, SMALL)
    session = engine.session()
    image = random_frames(1, 64, 96)
    session.run({"image": image})
    assert machine.device.held > 0
    for _ in range(2):
        session.close()
        engine.close()
    assert machine.world.held == 0
    with pytest.raises(RunError, match="a closed session"):
        session.run({"image": image})
    for use in (engine.session, engine.layers):
        with pytest.raises(RunError, match="a closed engine"):
            use()


def test_a_closed_session_and_engine_hold_nothing_of_the_library(machine: Machine) -> None:

    engine = machine.engine(LITTLE, SMALL)
    session = engine.session()
    alive = weakref.ref(engine.engine)
    engine.close()
    assert alive() is not None, "the session still runs on it"
    session.run({"image": random_frames(1, 64, 96)})
    session.close()
    gc.collect()
    assert alive() is None, "the weights lie on the device for as long as this lives"


def test_layers_are_told(machine: Machine) -> None:
    layers = json.loads(machine.engine(LITTLE, SMALL).layers())
    assert len(layers["Layers"]) == 4
