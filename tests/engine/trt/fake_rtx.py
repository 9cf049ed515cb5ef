"""What the fake TensorRT-RTX has and TensorRT has not, of running."""

from __future__ import annotations

from typing import Any

from tests.engine.trt.fake_builder import HEADER, USER_ALLOCATION
from tests.engine.trt.fake_runtime import ICudaEngine, IExecutionContext, Runtime
from tests.engine.trt.fake_trt import (
    AllocationStrategy,
    EngineValidity,
    ILogger,
    MisuseError,
    Specialisation,
    World,
)


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
    __slots__ = ("_cache", "_strategy", "_world", "dynamic_shapes_kernel_specialization_strategy")

    def __init__(self, world: World) -> None:
        self._world, self._strategy = world, AllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = Specialisation.LAZY

    def set_execution_context_allocation_strategy(
        self, strategy: Any = AllocationStrategy.STATIC
    ) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(f"CACHE {self._world.version} {self._world.cc} ".encode())

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self._cache = cache
        return True


class RtxExecutionContext(IExecutionContext):
    """Says whether it may be captured, and is refused in a capture where it says that not."""

    lazy, allocates = True, True

    def is_stream_capturable(self, stream: int) -> bool:
        if self._world.capturing(stream):
            raise MisuseError("whether a stream may be captured was asked in a capture of it")
        return self._may_be_captured() and self._bound() in self._ran

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = self._world.capturing(stream_handle)
        if capturing and not self._may_be_captured():
            return self._refused("execute_async_v3", "memory is allocated in a capture")
        done = super().execute_async_v3(stream_handle)
        self._world.fallbacks += done and self.lazy
        return done

    def _may_be_captured(self) -> bool:
        return self._world.capturable and not self.allocates


class RtxCudaEngine(ICudaEngine):
    def __init__(self, world: World, logger: ILogger, plan: bytes) -> None:
        super().__init__(world, logger, plan)
        self._allocates = not HEADER.unpack_from(plan)[-1] & USER_ALLOCATION

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._world)

    def create_execution_context(
        self, strategy: Any = AllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        config = strategy if isinstance(strategy, IRuntimeConfig) else IRuntimeConfig(self._world)
        if config is not strategy:
            config.set_execution_context_allocation_strategy(strategy)
        context = super().create_execution_context(config._strategy)
        if context is not None:
            context.compile = (config._cache or IRuntimeCache(b"")).compile
        if isinstance(context, RtxExecutionContext):
            specialised = config.dynamic_shapes_kernel_specialization_strategy
            context.lazy = specialised != Specialisation.EAGER
            context.allocates = self._allocates
        return context

    def _context(self) -> IExecutionContext:
        return RtxExecutionContext(self, self._world, self._logger)
