"""An execution context whose memory is ours; with RTX, what it compiles at load kept for later.

RTX compiles kernels for the GPU at hand when a plan first runs. That takes seconds, which a
runtime cache saves at the next load; it lies in the user's cache folder, never in the engine's.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.errors import OutputError
from segformer_deploy.files import write_bytes

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx


@dataclass
class Context:
    """A context, and the cache that fills while it runs.

    Attributes:
        execution: the library's context; None where the library refused.
    """

    execution: Any
    _cache: Any = None
    _path: Path | None = None
    _known: bytes = b""

    def keep(self) -> None:
        """Write the cache, if it holds more than it was opened with; without a home, nothing."""
        if self._cache is None or self._path is None:
            return
        cache: rtx.IRuntimeCache = self._cache
        data = bytes(cache.serialize())
        if data != self._known:
            with suppress(OutputError):
                write_bytes(self._path, data)
            self._known = data


def open_context(library: Library, engine: trt.ICudaEngine, cache: Path | None) -> Context:
    """A context with user-managed memory.

    Args:
        cache: file of the runtime cache, for a flavour that compiles at load; None keeps nothing.
    """
    api = library.api
    strategy = api.ExecutionContextAllocationStrategy.USER_MANAGED
    if not library.flavour.compiles_at_load:
        return Context(engine.create_execution_context(strategy))
    return _configured(api, engine, strategy, cache)


def _configured(module: Any, engine: Any, strategy: Any, path: Path | None) -> Context:
    cuda_engine: rtx.ICudaEngine = engine
    config: rtx.IRuntimeConfig = cuda_engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    when: type[rtx.DynamicShapesKernelSpecializationStrategy]
    when = module.DynamicShapesKernelSpecializationStrategy
    # Lazily, a new shape runs on fallback kernels for a while, and a graph captured then would
    # keep them for life.
    config.dynamic_shapes_kernel_specialization_strategy = when.EAGER
    if path is None:
        return Context(cuda_engine.create_execution_context(config))
    cache: rtx.IRuntimeCache = config.create_runtime_cache()
    known = path.read_bytes() if path.is_file() else b""
    if known and not cache.deserialize(known):
        # Of another release or GPU, or damaged; it is left empty, and written over.
        known = b""
    config.set_runtime_cache(cache)
    return Context(cuda_engine.create_execution_context(config), cache, path, known)
