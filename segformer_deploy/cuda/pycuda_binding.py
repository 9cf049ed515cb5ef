"""`Driver` by pycuda, on a GPU's primary context, as `pycuda.autoprimaryctx` uses it.

Graphs are not offered: pycuda has no call that begins a capture for this thread alone.

pycuda has no wheels: it is compiled against a full CUDA toolkit. So this file was tested with a
small stand-in for pycuda, written after pycuda's documentation, on a CUDA driver that keeps
device memory in host memory: every call of this file, their order, errors, contexts in several
threads, who gives back what. Not tested: pycuda itself, and hence its types at our arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from segformer_deploy.cuda.driver import (
    LEGACY_STREAM,
    Arguments,
    Array,
    Event,
    Function,
    Graph,
    HostMemory,
    Memory,
    Module,
    Rows,
    Size3,
    Stream,
    check_source,
    check_target,
    packed,
)
from segformer_deploy.cuda.held import (
    HeldEvent,
    HeldHandle,
    HeldHostMemory,
    HeldMemory,
    HeldStream,
    Ledger,
    run_all,
)
from segformer_deploy.cuda.results import (
    CODES,
    about,
    cannot_be_used,
    does_not_load,
    error_from_result,
)
from segformer_deploy.errors import BackendError, MissingDependencyError, RunError

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING of cuda.h, which pycuda takes as a number."""


class PycudaDriver:
    """GPU number `device`.

    Raises MissingDependencyError without pycuda, BackendError without a usable GPU.
    """

    graphs = False
    chosen = "pycuda"

    def __init__(self, device: int = 0) -> None:
        try:
            import pycuda.driver as cuda
        except ModuleNotFoundError as error:
            raise MissingDependencyError("pycuda", "pycuda", "device memory") from error
        except ImportError as error:
            # It is linked against libcuda.so.1: without a driver it is there and does not load.
            raise does_not_load("pycuda", "pycuda", error) from error
        self._cuda: Any = cuda
        self._context: Any = None
        self._ledger = Ledger()
        try:
            self._translating(self._open, device)
        except (RunError, BackendError) as error:
            raise cannot_be_used(error) from error

    def _open(self, device: int) -> None:
        self._cuda.init()
        found = self._cuda.Device(device)
        self.name: str = found.name()
        major, minor = found.compute_capability()
        self.capability = int(major), int(minor)
        self._context = found.retain_primary_context()

    def attach(self) -> None:
        """Each call brings our context along."""

    def _now(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """One call, with our context on this thread's stack.

        pycuda aborts the program when a thread ends with contexts on its stack, and destroys
        nothing from a thread whose stack has another on top.
        """
        if self._context is None:
            raise RunError("a closed driver was used", "an open one")
        try:
            return self._translating(self._with_context, call, arguments)
        finally:
            del call, arguments  # see `_translating`

    def _with_context(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self._context.push()
        try:
            answer = call(*arguments)
        except BaseException:
            with suppress(self._cuda.Error):  # the first error tells more
                self._pop()
            raise
        self._pop()
        return answer

    def _pop(self) -> None:
        """Our context off the stack; what stays there would end the program with its thread."""
        try:
            self._context.pop()
        except self._cuda.Error:
            with suppress(self._cuda.Error):
                self._context.pop()
            raise

    def _translating(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call whose exception, pycuda's, becomes ours.

        Without its traceback: who keeps an error would keep the objects in the frames that it
        names, and pycuda destroys those when the last reference goes.
        """
        try:
            return call(*arguments)
        except self._cuda.Error as error:
            ours = _ours(str(error))
            ours.__cause__ = error.with_traceback(None)
        finally:
            del call, arguments
        raise ours

    def allocate(self, size: int, owner: str) -> Memory:
        with about(f"{size / 1e6:.1f} MB of device memory for {owner}"):
            block = self._now(self._cuda.mem_alloc, size)
        return HeldMemory(self._ledger, partial(self._now, block.free), int(block), size)

    def allocate_host(self, size: int, owner: str) -> HostMemory:
        with about(f"{size / 1e6:.1f} MB of pinned host memory for {owner}"):
            array = self._now(self._cuda.pagelocked_empty, size, "uint8")
        return HeldHostMemory(self._ledger, partial(self._now, array.base.free), array)

    def open_stream(self) -> Stream:
        raw = self._now(self._cuda.Stream, _NON_BLOCKING)
        return HeldStream(self._ledger, partial(self._close_stream, [raw]), raw, int(raw.handle))

    def _close_stream(self, kept: list[Any]) -> None:
        run_all(lambda: self._now(kept[0].synchronize), partial(self._drop, kept))

    def _drop(self, kept: list[Any]) -> None:
        """Forget the last references, which is how pycuda destroys: with our context on top."""
        self._now(kept.clear)

    def open_event(self, timing: bool = False) -> Event:
        kinds = self._cuda.event_flags
        raw = self._now(self._cuda.Event, kinds.DEFAULT if timing else kinds.DISABLE_TIMING)
        return HeldEvent(self._ledger, partial(self._drop, [raw]), raw)

    def copy_in(self, target: int, source: Array, stream: Stream) -> None:
        check_source(source)
        self._now(self._cuda.memcpy_htod_async, target, source, _raw(stream))

    def copy_out(self, target: Array, source: int, stream: Stream) -> None:
        check_target(target)
        self._now(self._cuda.memcpy_dtoh_async, target, source, _raw(stream))

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        self._now(self._cuda.memcpy_dtod_async, target, source, size, _raw(stream))

    def copy_rows(self, copy: Rows, stream: Stream) -> None:
        order = self._cuda.Memcpy2D()
        order.set_src_device(copy.source)
        order.set_dst_device(copy.target)
        order.src_pitch, order.dst_pitch = copy.source_pitch, copy.target_pitch
        order.width_in_bytes, order.height = copy.width, copy.rows
        self._now(order, _raw(stream))

    def record(self, event: Event, stream: Stream) -> None:
        self._now(_raw(event).record, _raw(stream))

    def wait(self, stream: Stream, event: Event) -> None:
        self._now(_raw(stream).wait_for_event, _raw(event))

    def synchronise(self, stream: Stream) -> None:
        self._now(_raw(stream).synchronize)

    def synchronise_event(self, event: Event) -> None:
        self._now(_raw(event).synchronize)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(self._now(_raw(end).time_since, _raw(start)))

    def load_module(self, image: bytes) -> Module:
        # PTX must end with a zero; a cubin knows its own length.
        return _Module(self, self._now(self._cuda.module_from_buffer, image + b"\0"))

    def launch(
        self,
        function: Function,
        grid: Size3,
        block: Size3,
        arguments: Arguments,
        stream: Stream,
        shared: int = 0,
    ) -> None:
        assert isinstance(function, _Function)
        # All parameters as one piece: pycuda would lay a structure beside a number unaligned.
        blocks = [packed(arguments)] if arguments else []
        function.prepare([f"{len(data)}s" for data in blocks])
        self._now(function.launcher(shared), grid, block, _raw(stream), *blocks)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        raise BackendError(
            "pycuda offers no graphs here",
            "cuda-python",
            'pip install "segformer-deploy[cuda]"',
        )

    def memory_info(self) -> tuple[int, int]:
        free, total = self._now(self._cuda.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        if self._context is None:
            return
        # The streams first: they wait for work that uses the rest.
        run_all(partial(self._ledger.close, HeldStream), self._leave)

    def _leave(self) -> None:
        context, self._context = self._context, None
        # Pushed: from another thread than the opener's, pycuda would keep it for good. Where that
        # fails, it still goes back in the opener's thread.
        run_all(
            partial(self._translating, context.push), partial(self._translating, context.detach)
        )


class _Module(HeldHandle):
    kind = "module"

    def __init__(self, driver: PycudaDriver, raw: Any) -> None:
        # pycuda's functions keep their module loaded: they go together.
        self._kept: list[Any] = [raw]
        super().__init__(driver._ledger, partial(driver._drop, self._kept), raw)
        self._driver = driver

    def function(self, name: str) -> Function:
        with about(f"the kernel '{name}'"):
            self._kept.append(self._driver._now(self.raw.get_function, name))
        return _Function(self, name, len(self._kept) - 1)

    def kept(self, index: int) -> Any:
        self._check_open()
        return self._kept[index]


class _Function:
    def __init__(self, module: _Module, name: str, index: int) -> None:
        self.name = name
        self._module, self._index = module, index

    def prepare(self, format: list[str]) -> None:
        self._module.kept(self._index).prepare(format)

    def launcher(self, shared: int) -> Callable[..., Any]:
        call = self._module.kept(self._index).prepared_async_call
        return partial(call, shared_size=shared)


def _ours(said: str) -> RunError | BackendError:
    """Our error of pycuda's words, 'cuMemAlloc failed: out of memory - more'."""
    call, _, rest = said.partition(" failed: ")
    text, _, more = rest.partition(" - ")
    code = CODES.get(text)
    if code is None:
        return RunError(f"pycuda: {said}", "no error", "segdeploy doctor says what is here")
    ours = error_from_result(call, code)
    if log := " ".join(more.strip("\0").split())[:400]:
        return type(ours)(f"{ours.found} ({log})", ours.expected, ours.next_step)
    return ours


def _raw(one: Stream | Event) -> Any:
    if one.handle == LEGACY_STREAM and not isinstance(one, HeldHandle):
        return None  # as pycuda names it
    if not isinstance(one, HeldHandle):
        raise BackendError(
            "work ordered by a stream of another library, of which pycuda makes no stream",
            "cuda-python, which orders by any stream",
            'pip install "segformer-deploy[cuda]", or wait for that stream first and hand the '
            "frame over without it",
        )
    return one.raw
