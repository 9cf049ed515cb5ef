"""What a driver gave and has not got back: closing twice is safe, closing the driver closes all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segformer_deploy.cuda.driver import Bytes
from segformer_deploy.errors import RunError


def run_all(*steps: Callable[[], object]) -> None:
    """Every step, whatever fails; then the first error is raised.

    Ctrl-C too: on a board whose memory is short, what stays held is missed by the next run.
    """
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first


class Held:
    """One thing of a driver's; `close` gives it back once, whoever calls it."""

    def __init__(self, ledger: Ledger, give_back: Callable[[], None]) -> None:
        self._ledger, self._give_back = ledger, give_back
        ledger.open[id(self)] = self

    @property
    def closed(self) -> bool:
        return self._ledger.open.get(id(self)) is not self

    def close(self) -> None:
        if self._ledger.open.pop(id(self), None) is not None:
            self._give_back()


class Ledger:
    """Everything that is open, in the order in which it was opened."""

    def __init__(self) -> None:
        self.open: dict[int, Held] = {}

    def close(self, *first: type[Held]) -> None:
        """Close all: those of the kinds in `first`, then the others, each time the youngest first.

        All are closed, whatever fails; then the first error is raised.
        """
        youngest_first = list(reversed(self.open.values()))
        youngest_first.sort(key=lambda one: not isinstance(one, first))
        run_all(*(one.close for one in youngest_first))


class HeldMemory(Held):
    """`Memory` of every binding."""

    def __init__(
        self, ledger: Ledger, give_back: Callable[[], None], address: int, size: int
    ) -> None:
        super().__init__(ledger, give_back)
        self.address, self.size = address, size


class HeldHostMemory(Held):
    """`HostMemory` of every binding."""

    def __init__(self, ledger: Ledger, give_back: Callable[[], None], array: Bytes) -> None:
        super().__init__(ledger, give_back)
        self.array, self.size = array, array.size


class HeldHandle(Held):
    """A stream, event, module or graph; a closed one raises when it is used.

    CUDA's driver may crash on a handle that it took back.

    Attributes:
        raw: as the binding has it.
        handle: as a number; 0 where the binding does not tell it.
    """

    kind = "handle"

    def __init__(
        self, ledger: Ledger, give_back: Callable[[], None], raw: Any, handle: int = 0
    ) -> None:
        super().__init__(ledger, give_back)
        self._raw, self._handle = raw, handle

    @property
    def raw(self) -> Any:
        self._check_open()
        return self._raw

    @property
    def handle(self) -> int:
        self._check_open()
        return self._handle

    def close(self) -> None:
        # First: some bindings give a thing back when the last reference to it goes.
        self._raw = None
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise RunError(f"a closed {self.kind} was used", "an open one")


class HeldStream(HeldHandle):
    kind = "stream"


class HeldEvent(HeldHandle):
    kind = "event"


class HeldFunction:
    """`Function` of every binding; void once its module is closed."""

    def __init__(self, module: HeldHandle, name: str, raw: Any) -> None:
        self.name = name
        self._module, self._raw = module, raw

    @property
    def raw(self) -> Any:
        return self._raw if self._module.raw is not None else None
