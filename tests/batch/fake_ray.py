"""Enough of Ray for `RayRun` and `Cluster`, in this process: what dies is told beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from segformer_deploy.batch.ray_actor import RayActor


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class Column(list[Any]):
    def to_pylist(self) -> list[Any]:
        return list(self)


class _Remote:
    """`object.method.remote(...)` that is done at once."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._target, name))


class FakeRay:
    """A cluster whose actors are objects here.

    Args:
        dies: called with (round, index) before a task; True: its actor is lost with it.
        breaks: called with the round; an exception ends the round's stream.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(
        self,
        dies: Callable[[int, int], bool] = lambda *_: False,
        breaks: Callable[[int], Exception | None] = lambda _: None,
    ) -> None:
        self.dies, self.breaks = dies, breaks
        self.rounds: list[list[int]] = []
        self.counters: list[Any] = []
        self.counter_lost = False

    # What a `Cluster` has.
    num_cpus, num_gpus = 1.0, 0.0

    @property
    def ray(self) -> Any:
        return SimpleNamespace(exceptions=self.exceptions, get=self._get)

    @property
    def data(self) -> Any:
        return SimpleNamespace(
            ActorPoolStrategy=lambda **settings: settings,
            DataContext=SimpleNamespace(get_current=lambda: self.context),
            from_items=lambda rows, override_num_blocks: _Dataset(self, rows),
        )

    context = SimpleNamespace(
        enable_progress_bars=True, print_on_execution_start=True, max_errored_blocks=0
    )

    def actor_here(self, kind: Any, *args: Any) -> Any:
        self.counters.append(_Remote(kind(*args)))
        return self.counters[-1]

    def _get(self, value: Any) -> Any:
        if self.counter_lost:
            self.counter_lost = False
            raise RayError("the counter's node is gone")
        return value


class _Dataset:
    def __init__(self, ray: FakeRay, rows: list[dict[str, Any]]) -> None:
        self._ray, self._rows = ray, rows
        self.asked: dict[str, Any] = {}

    def map_batches(self, kind: type[RayActor], **asked: Any) -> _Dataset:
        assert kind is RayActor
        self.asked = asked
        return self

    def iter_batches(self, **_: Any) -> Iterator[dict[str, Column]]:
        ray, number = self._ray, len(self._ray.rounds)
        make_worker, begun, timeout = self.asked["fn_constructor_args"]
        ray.rounds.append([row["index"] for row in self._rows])
        actor = _ActorHere(make_worker, begun, timeout)
        for row in self._rows:
            if ray.dies(number, row["index"]):
                begun.begin.remote(row["index"])
                continue
            values = actor.row(row["index"], row["packed"])
            names = ("index", "kind", "attempts", "packed")
            yield {name: Column([value]) for name, value in zip(names, values, strict=True)}
        error = ray.breaks(number)
        if error is not None:
            raise error


class _ActorHere(RayActor):
    def row(self, index: int, packed: bytes) -> tuple[int, str, int, bytes]:
        return self._row(index, packed)

    def _begin(self, index: int) -> int:
        with suppress(RayError):
            return int(self._begun.begin.remote(index))
        return 1
