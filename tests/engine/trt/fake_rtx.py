"""What the fake TensorRT-RTX has and TensorRT has not, of running."""

from __future__ import annotations

from typing import Any

from tests.engine.trt.fake_builder import HEADER
from tests.engine.trt.fake_runtime import ICudaEngine, IExecutionContext, Runtime
from tests.engine.trt.fake_trt import AllocationStrategy, EngineValidity, MisuseError, World


class RtxRuntime(Runtime):
    __slots__ = ()

    @property
    def engine_header_size(self) -> int:
        return HEADER.size

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        if len(buffer) != HEADER.size:
            raise MisuseError(f"{len(buffer)} bytes of a header of {HEADER.size}")
        bits, _ = self._diagnose(bytes(buffer))
        return EngineValidity.INVALID if bits else EngineValidity.VALID, bits

    def _load(self, plan: bytes) -> ICudaEngine:
        return RtxCudaEngine(self.world, self.logger, plan)


class IRuntimeCache:
    """What RTX compiled at load; good for the release and the GPU that it was compiled for."""

    __slots__ = ("_data", "_head")

    def __init__(self, head: bytes) -> None:
        self._data = self._head = head

    def serialize(self) -> memoryview:
        return memoryview(self._data)

    def deserialize(self, blob: bytes) -> bool:
        if not bytes(blob).startswith(self._head):
            return False
        self._data = bytes(blob)
        return True

    def compile(self) -> bool:
        """Whether there was anything to compile."""
        new = not self._data.endswith(b"kernel")
        self._data = self._head + b"kernel"
        return new


class IRuntimeConfig:
    __slots__ = ("_cache", "_strategy", "_world")

    def __init__(self, world: World) -> None:
        self._world, self._strategy = world, AllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(
        self, strategy: Any = AllocationStrategy.STATIC
    ) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(f"CACHE {self._world.version} {self._world.cc} ".encode())

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self._cache = cache
        return True


class RtxCudaEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._world)

    def create_execution_context(
        self, strategy: Any = AllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        cache = IRuntimeCache(b"")
        if isinstance(strategy, IRuntimeConfig):
            cache = strategy._cache or cache
            strategy = strategy._strategy
        context = super().create_execution_context(strategy)
        if context is not None:
            context.compile = cache.compile
        return context
