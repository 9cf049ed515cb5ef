"""The pool on a Ray cluster: three nodes of one processor each, on this machine.

Needs the packages of the extra `ray`; SEGDEPLOY_REQUIRE_FLEET=1 makes their absence a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.batch.pool import Outcome
from segformer_deploy.batch.ray_pool import RayPool
from segformer_deploy.errors import EngineError, MissingDependencyError, SegdeployError
from tests.batch.pool_workers import (
    Do,
    MakeClosed,
    NotRead,
    NotSent,
    cannot_be_made,
    dies_at_start,
    make_doer,
    make_where,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
_STORE = 100 << 20
ROOT = Path(__file__).parents[2]

if importlib.util.find_spec("ray") is None:
    if os.environ.get("SEGDEPLOY_REQUIRE_FLEET") == "1":
        raise ImportError("SEGDEPLOY_REQUIRE_FLEET=1, but Ray is not installed")
    pytest.skip("needs the extra `ray`", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The nodes' processes find the tests' workers by this.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": _STORE,
            "ray_client_server_port": port,
        },
    )
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=_STORE)
    made.client = f"ray://127.0.0.1:{port}"
    yield made
    made.shutdown()


@pytest.fixture
def pool(cluster: Any) -> Iterator[RayPool]:
    with RayPool(cluster.address, num_cpus=1) as made:
        yield made


def _by_task(outcomes: list[Outcome]) -> dict[int, Outcome]:
    return {id(one.task): one for one in outcomes}


def _wait(condition: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def _lose(cluster: Any, node: Any) -> None:
    """End a node at once with all that is on it, as a power cut does."""
    raylet = node.all_processes["raylet"][0].process.pid
    listed = Path(f"/proc/{raylet}/task").glob("*/children")
    children = [int(pid) for path in listed for pid in path.read_text().split()]
    for pid in (raylet, *children):
        os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


# First in the file, so that no other cluster runs beside it.
def test_a_local_cluster_lives_as_long_as_its_pool(tmp_path: Path) -> None:
    script = tmp_path / "local.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        from segformer_deploy.batch.ray_pool import RayPool
        from tests.batch.pool_workers import Do, make_doer

        with RayPool("local", 1, num_cpus=1) as pool:
            tasks = [Do("pid"), Do("kill", sys.argv[1], 1)]
            outcomes = {one.task.what: one for one in pool.run(make_doer, tasks)}
        pool.close()
        print(outcomes["kill"].value, outcomes["kill"].attempts, outcomes["pid"].value)
        print(os.environ["RAY_USAGE_STATS_ENABLED"])
        """)
    )
    (tmp_path / "marks").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_USAGE_STATS_ENABLED", None)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "marks"],
        capture_output=True,
        env=environment,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    survived, attempts, pid, statistics = done.stdout.split()  # nothing else is on stdout
    assert (survived, attempts, statistics) == ("survived", "2", "0")
    _wait(lambda: not Path(f"/proc/{pid}").exists())


def test_every_kind_of_task_has_its_outcome(pool: RayPool, tmp_path: Path) -> None:
    assert pool.workers == 3
    tasks = [
        *(Do("pid") for _ in range(6)),
        *(Do(what) for what in ("ours", "theirs", "unpicklable", "big")),
        NotSent(),
        NotRead(),
        Do("kill", str(tmp_path), 2, "twice"),
        Do("kill", str(tmp_path), 99, "always"),
    ]
    found = _by_task(list(pool.run(make_doer, tasks)))
    assert len(found) == len(tasks)
    *fine, ours, theirs, unpicklable, big, not_sent, not_read, twice, always = (
        found[id(task)] for task in tasks
    )
    assert all(one.error is None and one.attempts == 1 for one in fine)
    assert ours.error == "clip.mp4 is empty\n  expected: a video\n  next: remove it"
    assert theirs.error == "ValueError: not 7"
    assert "cannot be sent" in str(unpicklable.error)
    assert "not to be sent" in str(not_sent.error)
    assert "no such class here" in str(not_read.error)
    assert big.value == b"x" * (16 << 20)
    assert (twice.value, twice.error, twice.attempts) == ("survived", None, 3)
    assert "died 3 times on this task" in str(always.error)
    assert len(list(tmp_path.glob("always-*"))) == 3, "begun as often as it may be"
    assert len(list(tmp_path.glob("twice-*"))) == 3


def test_workers_are_on_several_nodes_and_closed(pool: RayPool, tmp_path: Path) -> None:
    outcomes = list(pool.run(MakeClosed(str(tmp_path)), [[n] for n in range(30)]))
    assert sorted(one.value[0][0] for one in outcomes) == list(range(30))
    pids = {one.value[1] for one in outcomes}
    _wait(lambda: {f"closed-{pid}" for pid in pids} <= {one.name for one in tmp_path.iterdir()})


def test_answers_come_while_others_run(pool: RayPool, tmp_path: Path) -> None:
    tasks = [Do("pid"), Do("hang", str(tmp_path))]
    outcomes = pool.run(make_doer, tasks)
    assert next(outcomes).task is tasks[0]
    _wait(lambda: list(tmp_path.iterdir()))
    pid = int(next(tmp_path.iterdir()).name[4:])
    outcomes.close()  # type: ignore[attr-defined]
    _wait(lambda: not Path(f"/proc/{pid}").exists())


def test_a_hanging_task_is_ended_and_counted(cluster: Any, tmp_path: Path) -> None:
    tasks = [Do("hang", str(tmp_path)), Do("pid")]
    with RayPool(cluster.address, 1, num_cpus=1, tries=1, timeout=1.0) as pool:
        found = _by_task(list(pool.run(make_doer, tasks)))
    assert "died 1 time on this task" in str(found[id(tasks[0])].error)
    assert found[id(tasks[1])].error is None


def test_a_worker_that_cannot_be_made_raises_its_own_error(pool: RayPool) -> None:
    with pytest.raises(MissingDependencyError, match="'nothing' is not installed") as caught:
        list(pool.run(cannot_be_made, [1, 2]))
    assert caught.value.next_step == 'pip install "segformer-deploy[cpu]"'


def test_workers_that_die_at_start_end(cluster: Any) -> None:
    with RayPool(cluster.address, 1, num_cpus=1, tries=2) as pool:
        [only] = pool.run(dies_at_start, [1])
    assert only.attempts == 2
    assert "died 2 times" in str(only.error)


def test_a_lost_node_costs_one_try_of_its_task_only(cluster: Any, tmp_path: Path) -> None:
    """No processor is spare: what the lost node had in hand must not wait for it."""
    cluster.add_node(num_cpus=1, object_store_memory=_STORE)
    with RayPool(cluster.address, num_cpus=1) as pool:
        assert pool.workers == 4
        # On one machine a driver belongs to any of its nodes, and the count of tries is there.
        here = pool.cluster.ray.get_runtime_context().get_node_id()
        lost = next(node for node in cluster.worker_nodes if node.node_id != here)
        tasks = [Do("slow", str(tmp_path), name=f"{n}") for n in range(9)]
        # Read beside, so that the node goes while it is at its first task.
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(lambda: list(pool.run(make_where, tasks)))
            _wait(lambda: list(tmp_path.glob(f"*-{lost.node_id}")))
            _lose(cluster, lost)
            found = reading.result()
    assert sorted(int(one.task.name) for one in found) == list(range(9))
    assert all(one.error is None for one in found)
    again = {one.task.name: one.attempts for one in found if one.attempts > 1}
    began = {path.name.split("-")[0] for path in tmp_path.glob(f"*-{lost.node_id}")}
    assert list(again.values()) == [2], "it had one in hand"
    assert again.keys() <= began


def test_the_same_through_a_client(cluster: Any, tmp_path: Path) -> None:
    script = tmp_path / "far.py"
    script.write_text(
        textwrap.dedent("""
        import json, sys
        from segformer_deploy.batch.ray_pool import RayPool
        from segformer_deploy.errors import MissingDependencyError
        from tests.batch.pool_workers import Do, cannot_be_made, make_doer

        with RayPool(sys.argv[1], num_cpus=1) as pool:
            kills = [Do("kill", sys.argv[2], times, str(times)) for times in (1, 99)]
            tasks = [Do("pid"), Do("ours"), *kills]
            found = {id(one.task): one for one in pool.run(make_doer, tasks)}
            try:
                list(pool.run(cannot_be_made, [1]))
            except MissingDependencyError as error:
                outcomes = [found[id(task)] for task in tasks]
                print(json.dumps([str(error), *([one.error, one.attempts] for one in outcomes)]))
        """)
    )
    (tmp_path / "marks").mkdir()
    done = subprocess.run(
        [sys.executable, script, cluster.client, tmp_path / "marks"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    start, pid, ours, killed, always = json.loads(done.stdout)  # nothing else is on stdout
    assert "'nothing' is not installed" in start
    assert pid == [None, 1]
    assert ours[0].startswith("clip.mp4 is empty")
    assert killed == [None, 2]
    assert always[1] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_an_interrupted_or_killed_program(
    cluster: Any, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from segformer_deploy.batch.ray_pool import RayPool
        from tests.batch.pool_workers import Do, make_doer

        with RayPool(sys.argv[1], num_cpus=1) as pool:
            list(pool.run(make_doer, [Do("hang", sys.argv[2])] * 3))
        """)
    )
    (tmp_path / "pids").mkdir()
    with subprocess.Popen(
        [sys.executable, script, cluster.address, tmp_path / "pids"],
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        _wait(lambda: len(list((tmp_path / "pids").iterdir())) == 3)
        program.send_signal(number)
        printed = program.communicate(timeout=60)[1]
    assert ("KeyboardInterrupt" in printed) == (number is signal.SIGINT)
    pids = [int(path.name[4:]) for path in (tmp_path / "pids").iterdir()]
    _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_cluster_that_is_connected_already_is_left_connected(cluster: Any) -> None:
    import ray

    ray.init(cluster.address, log_to_driver=False)
    try:
        with RayPool("auto", num_cpus=1) as pool:
            assert [one.error for one in pool.run(make_doer, [Do("pid")])] == [None]
        pool.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_no_node_is_large_enough(cluster: Any) -> None:
    with pytest.raises(EngineError, match="the largest has 1 CPUs and 0 GPUs"):
        RayPool(cluster.address, num_cpus=8)
    with pytest.raises(EngineError, match="the largest has 1 CPUs and 0 GPUs"):
        RayPool(cluster.address, num_cpus=1, num_gpus=1)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no such thing"])
def test_no_cluster_there_is_said_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match="no Ray cluster at") as caught:
        RayPool(address)
    assert address in caught.value.found
    assert "ray start --head" in caught.value.next_step
    assert time.monotonic() - began < 20


def test_senseless_pools_are_refused() -> None:
    for settings in ({"workers": 0}, {"tries": 0}):
        with pytest.raises(SegdeployError, match="a pool of"):
            RayPool("local", **settings)  # type: ignore[arg-type]
