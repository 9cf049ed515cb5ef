"""A batch from beginning to end: plan, segment, join; and again from wherever it was ended.

::

    items ──> done already? ──> plan (pool) ──> chunks that are missing (pool) ──> join ──> forget
                                    ^                    │ cannot be cut there
                                    └──── as one chunk ──┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segformer_deploy.batch.folder import BatchFolder
from segformer_deploy.batch.identity import MadeBy
from segformer_deploy.batch.items import Found, Item, find_items
from segformer_deploy.batch.join import join_item
from segformer_deploy.batch.plan import Plan, stamp_of
from segformer_deploy.batch.pool import Outcome, Pool
from segformer_deploy.batch.report import BatchReport, ItemReport
from segformer_deploy.batch.run_length import need_pyarrow
from segformer_deploy.batch.settings import BatchSettings
from segformer_deploy.batch.task import ChunkTask, PlanTask
from segformer_deploy.batch.worker import ChunkWorker, Planner
from segformer_deploy.errors import OutputError, SegdeployError

OnProgress = Callable[[str, int, int], None]
"""Step ("planning" or "segmenting"), how much of it is done, of how much: videos or frames."""


@dataclass(frozen=True)
class BatchJob:
    """What is to be segmented, how, and where to.

    Attributes:
        source, pattern, recursive: as `find_items` takes them.
        output: the folder for the results.
        settings: how.
        restart: make all results again, whatever was made before.
    """

    source: str
    output: Path
    settings: BatchSettings
    pattern: str | None = None
    recursive: bool = False
    restart: bool = False

    def identity(self) -> dict[str, Any]:
        """All that decides what the names in the output folder mean and what is in them."""
        return {"source": str(Path(self.source).absolute()), **self.settings.identity()}

    def found(self) -> Found:
        """The videos; InputError where there are none."""
        return find_items(
            self.source, output=self.output, pattern=self.pattern, recursive=self.recursive
        )


def run_batch(
    job: BatchJob,
    pool: Pool,
    on_progress: OnProgress | None = None,
    on_begin: Callable[[], None] | None = None,
) -> BatchReport:
    """Segment all videos of a job that are not done yet.

    A video that fails is in the report; the others go on. Ctrl-C ends the batch with a report
    that says `interrupted`; all finished chunks stay, and the same call goes on from there.

    Args:
        job: what to do.
        pool: who does it; left open.
        on_progress: called on the calling thread.
        on_begin: called before anything is done, where there is something to do.

    Raises:
        InputError: no videos, or the output folder holds a batch of other settings.
        OutputError: the output folder cannot be written, or another process has it.
        EngineError: the engine does not load where the pool's workers are.
    """
    start = time.perf_counter()
    found = job.found()
    if job.settings.parquet:
        need_pyarrow()
    folder = BatchFolder(job.output)
    identity = job.identity()
    with folder.opened(identity, restart=job.restart):
        make = partial(
            ChunkWorker, job.settings, folder.output, folder.token, MadeBy(identity["engine"])
        )
        batch = _Batch(folder, job.settings, pool, make, found.items, on_progress)
        interrupted = False
        try:
            batch.go(on_begin)
        except KeyboardInterrupt:
            interrupted = True
    return BatchReport(
        [one.report for one in batch.work],
        time.perf_counter() - start,
        interrupted,
        batch.retries,
        found.notes,
    )


@dataclass
class _Work:
    """One video on its way.

    Attributes:
        item: the video.
        report: what became of it so far.
        plan: where it is cut.
        missing: chunks that are not there yet.
    """

    item: Item
    report: ItemReport
    plan: Plan | None = None
    missing: set[int] = field(default_factory=set)

    def fail(self, error: str) -> None:
        """The first error is the one that is told."""
        if self.report.state != "failed":
            self.report.state, self.report.error = "failed", error

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What goes wrong inside is this video's failure."""
        try:
            yield
        except SegdeployError as error:
            self.fail(str(error))


class _Batch:
    def __init__(
        self,
        folder: BatchFolder,
        settings: BatchSettings,
        pool: Pool,
        make_worker: Callable[[], ChunkWorker],
        items: Iterable[Item],
        on_progress: OnProgress | None,
    ) -> None:
        self._folder, self._settings, self._pool = folder, settings, pool
        self._make_worker = make_worker
        self._on_progress = on_progress or (lambda *_: None)
        self.work = [
            _Work(item, ItemReport(item.name, item.path, folder.result(item))) for item in items
        ]
        self._by_key = {one.item.key: one for one in self.work}
        self._done = self._total = 0
        self.retries = 0

    def go(self, on_begin: Callable[[], None] | None = None) -> None:
        open_work = [one for one in self.work if not self._settled(one)]
        if open_work and on_begin is not None:
            on_begin()
        try:
            self._plan(open_work)
            self._segment([one for one in open_work if one.plan is not None])
        except OutputError as error:
            if not self._folder.gone:
                raise
            # Nobody wants results there any more, or its disk was unmounted: nothing is made anew.
            for one in open_work:
                if one.report.state == "unfinished":
                    one.fail(str(error))

    def _settled(self, one: _Work) -> bool:
        """Whether nothing is left to do: it is done already, or cannot be done."""
        with one.failing():
            record = self._folder.record(one.item)
            if record is None:
                return False
            if record.get("source") != list(stamp_of(one.item.path)):
                one.report.notes.append("the video was changed: it is segmented again")
                return False
            self._folder.forget(one.item)
            one.report.state = "already"
            one.report.frames, one.report.chunks = record["frames"], record["chunks"]
            one.report.notes.extend(record["notes"])
        return True

    def _plan(self, work: list[_Work]) -> None:
        tasks = []
        for one in work:
            with one.failing():
                plan = self._folder.plan(one.item)
                if plan is not None and plan.stamp == stamp_of(one.item.path):
                    one.plan = plan
                else:
                    seconds = self._settings.chunk_seconds
                    tasks.append(PlanTask(one.item.key, one.item.path, seconds))
        self._on_progress("planning", 0, len(tasks))
        for count, (one, outcome) in enumerate(self._outcomes(Planner, tasks), 1):
            if outcome.error is not None:
                one.fail(outcome.error)
            else:
                with one.failing():
                    self._folder.keep_plan(one.item, outcome.value)
                    one.plan = outcome.value
            self._on_progress("planning", count, len(tasks))

    def _segment(self, work: list[_Work]) -> None:
        """All chunks that are missing; then, as one chunk, what could not be cut."""
        for one in work:
            assert one.plan is not None
            self._total += one.plan.frames
        while work:
            tasks = [task for one in work for task in self._tasks(one)]
            self._on_progress("segmenting", self._done, self._total)
            for one in work:
                self._join_if_complete(one)
            uneven: dict[str, str] = {}
            for one, outcome in self._outcomes(self._make_worker, tasks):
                self._take(one, outcome, uneven)
                self._on_progress("segmenting", self._done, self._total)
            work = [self._made_whole(self._by_key[key], why) for key, why in uneven.items()]

    def _made_whole(self, one: _Work, why: str) -> _Work:
        plan = one.plan
        assert plan is not None
        counted = (n for n in range(plan.chunks) if n not in one.missing)
        self._done -= sum(plan.frames_of(number) for number in counted)
        one.plan = plan.whole(f"not cut into chunks: {why}")
        with one.failing():
            self._folder.keep_plan(one.item, one.plan)
        return one

    def _tasks(self, one: _Work) -> list[ChunkTask]:
        plan, item = one.plan, one.item
        assert plan is not None
        places = self._folder.chunks(item, plan)
        finished = self._folder.finished
        one.missing = {number for number, place in enumerate(places) if not finished(place)}
        self._done += sum(
            plan.frames_of(number) for number in range(plan.chunks) if number not in one.missing
        )
        return [ChunkTask.of(item.key, item.path, plan, number) for number in sorted(one.missing)]

    def _take(self, one: _Work, outcome: Outcome, uneven: dict[str, str]) -> None:
        task: ChunkTask = outcome.task
        if outcome.error is not None:
            one.fail(outcome.error)
            if self._folder.gone:
                self._folder.check()
        elif outcome.value.uneven:
            uneven[task.key] = outcome.value.uneven
        else:
            one.report.segmented += outcome.value.frames
            self._done += task.frames
            one.missing.discard(task.number)
            self._join_if_complete(one)

    def _join_if_complete(self, one: _Work) -> None:
        if one.missing or one.report.state != "unfinished":
            return
        assert one.plan is not None
        with one.failing():
            joined = join_item(self._folder, one.item, one.plan, self._settings)
            one.report.state = "done"
            one.report.frames, one.report.chunks = joined.frames, one.plan.chunks
            one.report.notes.extend(joined.notes)
            with suppress(OutputError):  # the results are there; the next call clears up, too
                self._folder.forget(one.item)
        if self._folder.gone:
            self._folder.check()

    def _outcomes(
        self, make_worker: Callable[[], Any], tasks: list[Any]
    ) -> Iterator[tuple[_Work, Outcome]]:
        if not tasks:
            return
        for outcome in self._pool.run(make_worker, tasks):
            self.retries += outcome.attempts > 1
            yield self._by_key[outcome.task.key], outcome
