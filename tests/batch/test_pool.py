"""The pools: an outcome for every task, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.batch.answers import Answer, Failure
from segformer_deploy.batch.pool import InlinePool, LocalPool, Outcome, processes_for
from segformer_deploy.errors import (
    EngineError,
    MediaError,
    MissingDependencyError,
    SegdeployError,
)
from tests.batch.pool_workers import (
    Counting,
    Do,
    MakeClosed,
    NotRead,
    NotSent,
    cannot_be_made,
    dies_at_start,
    make_doer,
)


def _by_task(outcomes: list[Outcome]) -> dict[object, Outcome]:
    return {id(one.task): one for one in outcomes}


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def _wait(condition: object, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def test_each_task_has_one_outcome_and_workers_are_closed(tmp_path: Path) -> None:
    tasks = [[n] for n in range(12)]
    with LocalPool(2) as pool:
        outcomes = list(pool.run(MakeClosed(str(tmp_path)), tasks))
    assert sorted(one.value[0][0] for one in outcomes) == list(range(12))
    assert set(_by_task(outcomes)) == {id(task) for task in tasks}, "tasks come back as they went"
    assert all(one.error is None and one.attempts == 1 for one in outcomes)
    pids = {one.value[1] for one in outcomes}
    assert os.getpid() not in pids
    assert {f"closed-{pid}" for pid in pids} <= {path.name for path in tmp_path.iterdir()}
    assert not any(_alive(pid) for pid in pids)


def test_no_task_starts_no_process() -> None:
    with LocalPool(2) as pool:
        assert list(pool.run(dies_at_start, [])) == []


def test_no_more_processes_than_tasks(tmp_path: Path) -> None:
    with LocalPool(8) as pool:
        list(pool.run(MakeClosed(str(tmp_path)), ["only"]))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_raising_task_is_an_error_with_next_step_and_its_worker_lives_on() -> None:
    tasks = [Do("pid"), Do("ours"), Do("theirs"), Do("unpicklable"), Do("pid")]
    with LocalPool(1) as pool:
        outcomes = _by_task(list(pool.run(make_doer, tasks)))
    first, ours, theirs, unpicklable, last = (outcomes[id(task)] for task in tasks)
    assert first.value == last.value, "the same process"
    assert ours.error == "clip.mp4 is empty\n  expected: a video\n  next: remove it"
    assert theirs.error == "ValueError: not 7"
    assert unpicklable.error is not None
    assert "cannot be sent" in unpicklable.error
    assert {one.attempts for one in outcomes.values()} == {1}


def test_tasks_that_cannot_travel_are_errors() -> None:
    tasks = [NotSent(), NotRead(), Do("pid")]
    with LocalPool(1) as pool:
        outcomes = _by_task(list(pool.run(make_doer, tasks)))
    assert "not to be sent" in str(outcomes[id(tasks[0])].error)
    assert "no such class here" in str(outcomes[id(tasks[1])].error)
    assert outcomes[id(tasks[2])].error is None


def test_big_values_come_whole() -> None:
    with LocalPool(2) as pool:
        values = [one.value for one in pool.run(make_doer, [Do("big")] * 3)]
    assert values == [b"x" * (16 << 20)] * 3


def test_a_killed_worker_costs_one_try_of_its_task_only(tmp_path: Path) -> None:
    tasks = [Do("kill", str(tmp_path), 2), *(Do("pid") for _ in range(5))]
    with LocalPool(2) as pool:
        outcomes = _by_task(list(pool.run(make_doer, tasks)))
    killed = outcomes[id(tasks[0])]
    assert (killed.value, killed.error, killed.attempts) == ("survived", None, 3)
    assert all(outcomes[id(task)].attempts == 1 for task in tasks[1:])
    assert len(outcomes) == 6


def test_a_task_that_kills_each_worker_becomes_an_error(tmp_path: Path) -> None:
    tasks = [Do("kill", str(tmp_path), 99), Do("pid"), Do("exit")]
    with LocalPool(1, tries=2) as pool:
        outcomes = _by_task(list(pool.run(make_doer, tasks)))
    killed, fine, left = (outcomes[id(task)] for task in tasks)
    assert killed.attempts == left.attempts == 2
    assert "died 2 times on this task (killed by SIGKILL)" in str(killed.error)
    assert "next: if the system ran out of memory" in str(killed.error)
    assert "(exit code 3)" in str(left.error)
    assert fine.error is None
    assert len(list(tmp_path.iterdir())) == 2, "begun as often as it may be"


def test_a_hanging_task_is_ended_and_counted(tmp_path: Path, capfd: object) -> None:
    tasks = [Do("hang", str(tmp_path)), Do("pid")]
    with LocalPool(1, tries=1, timeout=1.0) as pool:
        outcomes = _by_task(list(pool.run(make_doer, tasks)))
    assert "(no end after 1 s)" in str(outcomes[id(tasks[0])].error)
    assert outcomes[id(tasks[1])].error is None
    assert "_write" not in capfd.readouterr().err  # type: ignore[attr-defined]


def test_a_worker_that_cannot_be_made_raises_its_own_error() -> None:
    for pool in (LocalPool(2), InlinePool()):
        with pytest.raises(MissingDependencyError, match="'nothing' is not installed") as caught:
            list(pool.run(cannot_be_made, [1, 2]))
        assert caught.value.next_step == 'pip install "segformer-deploy[cpu]"'


def test_workers_that_die_at_start_end_the_run() -> None:
    with LocalPool(2, tries=2) as pool, pytest.raises(EngineError, match="before it is ready"):
        list(pool.run(dies_at_start, [1, 2, 3]))


def test_leaving_early_stops_workers_and_lets_them_clear_up(tmp_path: Path) -> None:
    with LocalPool(1) as pool:
        outcomes = pool.run(make_doer, [Do("pid"), Do("write", str(tmp_path))])
        assert next(outcomes).error is None
        _wait(lambda: list(tmp_path.glob("pid-*")))
        pid = int(next(tmp_path.glob("pid-*")).name[4:])
        assert _alive(pid)
        assert (tmp_path / "aside").exists()
    assert not _alive(pid)
    assert not (tmp_path / "aside").exists(), "SIGTERM let its `finally` run"
    pool.close()  # twice is safe


_PROGRAM = """
    import sys
    from segformer_deploy.batch.pool import LocalPool
    from tests.batch.pool_workers import Do, make_doer

    if __name__ == "__main__":
        with LocalPool(2) as pool:
            for one in pool.run(make_doer, [Do("hang", sys.argv[1])] * 2):
                print(one)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_or_killed_program(
    number: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(_PROGRAM))
    (tmp_path / "pids").mkdir()
    root = Path(__file__).parents[2]
    # A session of its own, so that the signal can go to all of it as a terminal's Ctrl-C does.
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "pids"],
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        _wait(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
        if number is signal.SIGINT:
            os.killpg(program.pid, number)
        else:
            program.send_signal(number)
        printed = program.communicate(timeout=30)[1]
    pids = [int(path.name[4:]) for path in (tmp_path / "pids").iterdir()]
    _wait(lambda: not any(_alive(pid) for pid in pids))
    _wait(lambda: not _session(program.pid))
    if number is signal.SIGINT:
        assert printed.count("Traceback") == 1, "the program's own; workers say nothing"
        assert "KeyboardInterrupt" in printed


def _session(leader: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader and _alive(int(entry.name)):
                    found.append(int(entry.name))
            except (ProcessLookupError, PermissionError):
                continue
    return found


def test_inline_pool_runs_here_in_order_and_closes() -> None:
    worker = Counting()
    outcomes = list(InlinePool().run(lambda: worker, [1, "bad", 2]))
    assert [(one.task, one.value, one.error) for one in outcomes] == [
        (1, 1, None),
        ("bad", None, "ValueError: bad"),
        (2, 2, None),
    ]
    assert worker.closed == 1


def test_inline_pool_closes_when_left_early() -> None:
    worker = Counting()
    outcomes = InlinePool().run(lambda: worker, [1, 2, 3])
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert (worker.done, worker.closed) == ([1], 1)


@pytest.mark.parametrize(("processes", "tries"), [(0, 3), (2, 0)])
def test_senseless_pools_are_refused(processes: int, tries: int) -> None:
    with pytest.raises(SegdeployError, match="processes and"):
        LocalPool(processes, tries)


def test_processes_by_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segformer_deploy.batch.pool.usable_cores", lambda: 6)
    assert [processes_for(threads) for threads in (1, 2, 4, 8)] == [6, 3, 1, 1]


_WORDS = st.text(max_size=40)


@given(_WORDS, _WORDS, _WORDS)
@settings(max_examples=50, deadline=None)
def test_our_errors_travel_whole(found: str, expected: str, next_step: str) -> None:
    sent = MediaError(found, expected, next_step)
    came = Failure.of(sent).error()
    assert type(came) is MediaError
    assert (str(came), came.args) == (str(sent), sent.args)
    dependency = MissingDependencyError(found, expected, next_step)
    assert str(Failure.of(dependency).error()) == str(dependency)


def test_a_class_of_another_name_becomes_our_base_class() -> None:
    for kind in ("ValueError", "annotations", "Exception"):
        assert type(Failure(kind, "found").error()) is SegdeployError
    assert Answer(value=3).outcome("task") == Outcome("task", 3)
