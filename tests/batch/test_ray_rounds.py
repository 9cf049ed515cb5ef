"""What a Ray pool makes of lost actors, nodes and counters, by a Ray that is told what dies."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.batch import answers, ray_cluster
from segformer_deploy.batch.answers import Answer
from segformer_deploy.batch.ray_actor import Begun, unpacked
from segformer_deploy.batch.ray_cluster import Cluster
from segformer_deploy.batch.ray_pool import RayPool, RayRun
from segformer_deploy.errors import EngineError, MissingDependencyError
from tests.batch.fake_ray import FakeRay, RayError
from tests.batch.pool_workers import Counting, cannot_be_made

TASKS = ("a", "b", "bad", "d")


def _run(ray: FakeRay, make_worker: Any = Counting, tries: int = 3) -> list[tuple[Any, ...]]:
    pool: Any = SimpleNamespace(cluster=ray, workers=2, tries=tries, timeout=None)
    packed = {index: answers.pack_task(task) for index, task in enumerate(TASKS)}
    return [
        (index, answer.value, answer.failure and answer.failure.found, attempts)
        for index, answer, attempts in RayRun(pool, make_worker, packed).answers()
    ]


def test_all_in_one_round_where_nothing_dies() -> None:
    ray = FakeRay()
    assert _run(ray) == [
        (0, "a", None, 1),
        (1, "b", None, 1),
        (2, None, "ValueError: bad", 1),
        (3, "d", None, 1),
    ]
    assert ray.rounds == [[0, 1, 2, 3]]
    assert vars(ray.context) == {  # as it was
        "enable_progress_bars": True,
        "print_on_execution_start": True,
        "max_errored_blocks": 0,
    }


def test_lost_tasks_and_no_others_go_into_the_next_round() -> None:
    ray = FakeRay(dies=lambda number, index: number == 0 and index in (1, 3))
    found = sorted(_run(ray))
    assert ray.rounds == [[0, 1, 2, 3], [1, 3]]
    assert [attempts for *_, attempts in found] == [1, 2, 1, 2]


def test_what_kills_each_worker_is_given_up() -> None:
    ray = FakeRay(dies=lambda _, index: index == 1)
    found = sorted(_run(ray, tries=2))
    assert ray.rounds == [[0, 1, 2, 3], [1]]
    assert found[1][1] is None
    assert "the worker died 2 times on this task" in found[1][2]
    assert found[1][3] == 2


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 3))), st.integers(1, 4))
def test_each_task_has_one_answer_whatever_dies(deaths: set[tuple[int, int]], tries: int) -> None:
    found = sorted(_run(FakeRay(dies=lambda *place: place in deaths), tries=tries))
    assert [index for index, *_ in found] == [0, 1, 2, 3]
    for index, _, error, attempts in found:
        died = next(n for n in range(8) if (n, index) not in deaths)
        assert attempts == min(died + 1, tries)
        assert ("died" in str(error)) == (died >= tries)


def test_a_broken_stream_costs_no_task_a_try() -> None:
    ray = FakeRay(
        dies=lambda number, index: number == 0 and index == 3,
        breaks=lambda number: RayError("an object was lost") if number == 0 else None,
    )
    assert sorted(_run(ray))[3] == (3, "d", None, 2)


def test_a_lost_counter_is_replaced_and_taken_as_one_try() -> None:
    ray = FakeRay(dies=lambda number, index: number == 0 and index == 3)
    ray.counter_lost = True
    assert sorted(_run(ray))[3] == (3, "d", None, 2)
    assert len(ray.counters) == 2


def test_a_cluster_without_progress_is_an_error() -> None:
    class Silent(FakeRay):
        def actor_here(self, kind: Any, *args: Any) -> Any:
            counter = Begun()
            counter.begin = lambda index: 1  # type: ignore[method-assign]
            return super().actor_here(lambda: counter)

    ray = Silent(dies=lambda *_: True, breaks=lambda _: RayError("no memory"))
    with pytest.raises(EngineError, match="before they begin a task: no memory"):
        _run(ray)
    assert len(ray.rounds) == 3


def test_a_node_without_the_package_is_said_at_once() -> None:
    text = "The actor died\n  ModuleNotFoundError: No module named 'segformer_deploy'\n"
    ray = FakeRay(dies=lambda *_: True, breaks=lambda _: RayError(text))
    with pytest.raises(EngineError, match="No module named 'segformer_deploy'") as caught:
        _run(ray)
    assert "on each node" in caught.value.next_step
    assert len(ray.rounds) == 1


def test_a_worker_that_cannot_be_made_raises_its_own_error() -> None:
    with pytest.raises(MissingDependencyError, match="'nothing' is not installed"):
        _run(FakeRay(), cannot_be_made)


def test_a_count_takes_back_what_ended() -> None:
    begun = Begun()
    assert [begun.begin(4), begun.begin(4), begun.begin(7)] == [1, 2, 1]
    begun.end(4)
    assert begun.open([4, 7, 9]) == {4: 1, 7: 1, 9: 0}


def test_an_answer_that_does_not_read_is_a_failure() -> None:
    assert unpacked(Answer(5).packed()) == Answer(5)
    assert unpacked(b"no pickle").failure is not None


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(ray_cluster, "importlib", SimpleNamespace(import_module=missing))
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(MissingDependencyError) as caught:
        RayPool("local")
    assert caught.value.next_step == 'pip install "segformer-deploy[ray]"'
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")


def _cluster(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], **takes: float) -> Any:
    found = [{"Alive": True, "Resources": node} for node in nodes]
    found.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    ray = SimpleNamespace(is_initialized=lambda: True, nodes=lambda: found)
    monkeypatch.setattr(ray_cluster, "_module", lambda _: ray)
    return Cluster("auto", takes.get("cpus", 2), takes.get("gpus", 0))


def test_places_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 4.0, "GPU": 1.0}, {"GPU": 1.0}]
    assert _cluster(monkeypatch, nodes).places() == 3
    assert _cluster(monkeypatch, nodes, gpus=0.5).places() == 2
    assert _cluster(monkeypatch, nodes, cpus=0, gpus=1).places() == 2
    with pytest.raises(EngineError, match="the largest has 4 CPUs and 1 GPUs"):
        _cluster(monkeypatch, nodes, cpus=5).places()


def test_a_closed_port_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setattr(ray_cluster, "_module", lambda _: ray)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(EngineError, match=f"no Ray cluster at '{address}'"):
            Cluster(address, 1, 0)
