"""What every driver does: memory, copies, kernels, who closes what, which thread calls."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest

from segformer_deploy.cuda.driver import Rows
from segformer_deploy.errors import BackendError, RunError
from tests.cuda.gpus import Blocks, Gpu, Scale, Work, in_thread, random_bytes


def test_what_it_says_of_itself(gpu: Gpu) -> None:
    driver = gpu.open()
    assert driver.name == ("fake device" if gpu.name == "fake" else "Host Orin")
    assert driver.capability == (8, 7)
    assert driver.graphs == (gpu.name != "pycuda")
    block = driver.allocate(1 << 20, "a test")
    free, total = driver.memory_info()
    assert total - free == 1 << 20
    block.close()
    driver.close()


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64"])
def test_bytes_come_back_as_they_went(gpu: Gpu, dtype: str) -> None:
    """Of every type and shape, to and from anywhere in a block."""
    driver = gpu.open()
    stream, block = driver.open_stream(), driver.allocate(5000, "a test")
    assert block.size == 5000
    source = random_bytes(3, 5, 8 * 20).view(dtype)
    back = np.zeros_like(source)
    driver.copy_in(block.address + 8 * 7, source, stream)
    driver.copy_out(back, block.address + 8 * 7, stream)
    driver.synchronise(stream)
    np.testing.assert_array_equal(back.view(np.uint8), source.view(np.uint8))
    driver.close()


def test_copies_on_the_device(gpu: Gpu) -> None:
    driver = gpu.open()
    stream = driver.open_stream()
    one, two = driver.allocate(100, "one"), driver.allocate(100, "two")
    picture, before = random_bytes(100), random_bytes(100)
    driver.copy_in(one.address, picture, stream)
    driver.copy_in(two.address, before, stream)
    driver.copy(two.address + 10, one.address + 3, 50, stream)
    back = np.zeros_like(picture)
    driver.copy_out(back, two.address, stream)
    driver.synchronise(stream)
    before[10:60] = picture[3:53]
    np.testing.assert_array_equal(back, before)
    driver.close()


def test_rows_and_nothing_beside_them(gpu: Gpu) -> None:
    driver = gpu.open()
    stream = driver.open_stream()
    source, target = driver.allocate(40 * 9, "source"), driver.allocate(64 * 9, "target")
    picture, before = random_bytes(9, 40), random_bytes(9, 64)
    driver.copy_in(source.address, picture, stream)
    driver.copy_in(target.address, before, stream)
    driver.copy_rows(Rows(source.address + 3, 40, target.address + 64 + 10, 64, 30, 7), stream)
    after = np.zeros_like(before)
    driver.copy_out(after, target.address, stream)
    driver.synchronise(stream)
    before[1:8, 10:40] = picture[:7, 3:33]
    np.testing.assert_array_equal(after, before)
    driver.close()


def test_pinned_memory(gpu: Gpu) -> None:
    driver = gpu.open()
    stream = driver.open_stream()
    up, down = driver.allocate_host(1000, "up"), driver.allocate_host(1000, "down")
    block = driver.allocate(1000, "a test")
    assert (up.size, up.array.shape, up.array.dtype) == (1000, (1000,), np.uint8)
    up.array[...] = random_bytes(1000)
    driver.copy_in(block.address, up.array.reshape(10, 100)[2:], stream)
    driver.copy_out(down.array[100:900], block.address, stream)
    driver.synchronise(stream)
    np.testing.assert_array_equal(down.array[100:900], up.array[200:])
    if gpu.name != "fake":
        assert gpu.host.host_held == 2000
        assert gpu.host.is_pinned(up.array.ctypes.data, 1000)
    up.close()
    down.close()
    assert gpu.name == "fake" or gpu.host.host_held == 0
    driver.close()


def test_kernels_and_their_arguments(gpu: Gpu) -> None:
    """They are taken at the launch, though the kernel runs later."""
    driver = gpu.open()
    work = Work(driver)
    one, two = work.floats(100, 3), work.floats(100, 7)
    job = Scale(one.address, two.address, 90, 2.0)
    driver.launch(work.function("toy_scale"), (3, 1, 1), (32, 1, 1), [job], work.stream)
    job.factor, job.count = 1000.0, 1
    np.testing.assert_array_equal(work.read(two), [6.0] * 90 + [7.0] * 10)
    driver.close()


def test_grids_and_blocks(gpu: Gpu) -> None:
    driver = gpu.open()
    work = Work(driver)
    block = work.floats(4 * 3 * 2)
    job = Blocks(block.address, 4, 3)
    driver.launch(work.function("toy_blocks"), (4, 3, 2), (8, 2, 4), [job], work.stream)
    found = work.read(block).view(np.int32).reshape(2, 3, 4)
    z, y, x = np.indices(found.shape)
    np.testing.assert_array_equal(found, x + 100 * y + 10000 * z)
    driver.close()


@pytest.mark.parametrize(
    ("grid", "block"),
    [((0, 1, 1), (32, 1, 1)), ((1, 1, 1), (32, 33, 1)), ((1, 1, 1), (1, 0, 1))],
)
def test_launches_that_no_gpu_takes(
    gpu: Gpu, grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    driver = gpu.open()
    work = Work(driver)
    memory = work.floats(10)
    job = Scale(memory.address, memory.address, 10, 1.0)
    with pytest.raises(RunError, match=r"CUDA_ERROR_INVALID_VALUE \(1\)"):
        driver.launch(work.function("toy_scale"), grid, block, [job], work.stream)
    driver.close()


def test_modules_and_names_that_are_none(gpu: Gpu) -> None:
    driver = gpu.open()
    with pytest.raises(BackendError, match=r"CUDA_ERROR_INVALID_IMAGE \(200\)"):
        driver.load_module(b"")
    module = driver.load_module(b"PTX of a test")
    with pytest.raises(RunError, match=r"the kernel 'other': .*CUDA_ERROR_NOT_FOUND \(500\)"):
        module.function("other")
    assert module.function("toy_scale").name == "toy_scale"
    driver.close()


def test_memory_that_runs_out_names_its_owner(gpu: Gpu) -> None:
    """What fits still fits."""
    gpu.capacity = 1000
    driver = gpu.open()
    block = driver.allocate(900, "'image' of a test")
    owner = "'activations' of a test"
    with pytest.raises(RunError, match=f"2.5 MB of device memory for {owner}") as caught:
        driver.allocate(2_500_000, owner)
    assert caught.value.expected
    if gpu.name != "fake":
        assert "cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (2): " in caught.value.found
        assert "smaller size" in caught.value.next_step
        gpu.host.fail("cuMemHostAlloc", code=2)
        with pytest.raises(RunError, match=r"0.1 MB of pinned host memory for frames: cuMemHost"):
            driver.allocate_host(100_000, "frames")
    assert gpu.held == 900
    block.close()
    driver.allocate(1000, "'image' of a test").close()
    driver.close()


def test_arrays_in_pieces_are_refused(gpu: Gpu) -> None:
    driver = gpu.open()
    stream, block = driver.open_stream(), driver.allocate(100, "a test")
    with pytest.raises(RunError, match="in pieces"):
        driver.copy_in(block.address, random_bytes(10, 10)[:, ::2], stream)
    with pytest.raises(RunError, match="in pieces"):
        driver.copy_out(random_bytes(10, 10)[:, :5], block.address, stream)
    fixed = random_bytes(10)
    fixed.flags.writeable = False
    driver.copy_in(block.address, fixed, stream)
    with pytest.raises(RunError, match="read-only"):
        driver.copy_out(fixed, block.address, stream)
    driver.close()


def test_everything_closes_twice_and_serves_no_more(gpu: Gpu) -> None:
    driver = gpu.open()
    block, pinned = driver.allocate(100, "one"), driver.allocate_host(100, "two")
    other = driver.allocate(200, "three")
    assert block.address != other.address
    stream, event = driver.open_stream(), driver.open_event()
    assert stream.handle != driver.open_stream().handle
    module = driver.load_module(b"PTX of a test")
    function = module.function("toy_scale")
    for one in (block, block, other, other, pinned, pinned, event, event, module, module):
        one.close()
    assert gpu.held == 0
    for use in (lambda: driver.record(event, stream), lambda: driver.wait(stream, event)):
        with pytest.raises(RunError, match="a closed event"):
            use()
    with pytest.raises(RunError, match="a closed module"):
        module.function("toy_scale")
    with pytest.raises(RunError, match="a closed module"):
        driver.launch(function, (1, 1, 1), (1, 1, 1), [Scale()], stream)
    stream.close()
    stream.close()
    with pytest.raises(RunError, match="a closed stream"):
        driver.synchronise(stream)
    driver.close()
    driver.close()
    with pytest.raises((RunError, BackendError)):
        driver.allocate(10, "too late")


def test_the_driver_takes_everything_back(gpu: Gpu) -> None:
    """Though another one keeps the context, and work that uses it is still to come."""
    first, second = gpu.open(), gpu.open()
    kept, kept_stream = second.allocate(50, "kept"), second.open_stream()
    work = Work(first)
    one, two = work.floats(100, 1), work.floats(100)
    pinned = first.allocate_host(400, "pinned")
    event = first.open_event()
    work.scale(one, two, 5.0)
    first.copy_out(pinned.array, two.address, work.stream)
    first.record(event, work.stream)
    graph = first.capture(work.stream, lambda: work.scale(one, two, 2.0)) if first.graphs else None
    if graph is not None:
        graph.launch(work.stream)
    first.close()
    for closed in (one, two, pinned, event, work.stream):
        closed.close()
    assert gpu.held == 50
    if gpu.name != "fake":
        host = gpu.host
        assert (host.host_held, host.events, host.modules, host.graphs) == (0, 0, 0, 0)
        assert (host.streams, host.retained) == (1, 1)
    picture = random_bytes(50)
    second.copy_in(kept.address, picture, kept_stream)
    back = np.zeros_like(picture)
    second.copy_out(back, kept.address, kept_stream)
    second.synchronise(kept_stream)
    np.testing.assert_array_equal(back, picture)
    second.close()


def test_any_thread_may_call(gpu: Gpu) -> None:
    """Opened in one, used in others, closed in yet another."""
    driver = in_thread(gpu.open)
    work = in_thread(lambda: Work(driver))

    def use() -> None:
        one, two = work.floats(20, 3), work.floats(20)
        work.scale(one, two, 2.0)
        np.testing.assert_array_equal(work.read(two), [6.0] * 20)
        one.close()
        in_thread(two.close)

    in_thread(use)
    use()
    in_thread(use)
    assert gpu.held == 0
    in_thread(driver.close)


def test_two_drivers_take_turns_in_one_thread(gpu: Gpu) -> None:
    first, second = gpu.open(), gpu.open()
    works = Work(first), Work(second)
    blocks = [work.floats(10, 1 + n) for n, work in enumerate(works)]
    for _ in range(2):
        for work, block in zip(works, blocks, strict=True):
            work.scale(block, block, 2.0)
    for n, (work, block) in enumerate(zip(works, blocks, strict=True)):
        np.testing.assert_array_equal(work.read(block), [4.0 * (1 + n)] * 10)
    first.close()
    np.testing.assert_array_equal(works[1].read(blocks[1]), [8.0] * 10)
    second.close()


@pytest.mark.parametrize("offset", [1, -1, 1000])
def test_copies_beside_their_block(gpu: Gpu, offset: int) -> None:
    """An error at the latest when the stream is waited for."""
    driver = gpu.open()
    stream, block = driver.open_stream(), driver.allocate(100, "one")
    with pytest.raises(RunError, match=r"are no device memory|CUDA_ERROR_INVALID_VALUE"):
        driver.copy_in(block.address + offset, random_bytes(100), stream)
        driver.synchronise(stream)
    driver.close()


def test_structures_are_as_large_as_the_kernels(gpu: Gpu) -> None:
    assert gpu.host.kernel_bytes("toy_scale") == ctypes.sizeof(Scale)


@dataclass(frozen=True)
class Borrowed:
    """A stream that another library made."""

    handle: int

    def close(self) -> None: ...


@pytest.mark.parametrize("gpu", ["cuda-python", "pycuda"], indirect=True)
def test_a_stream_of_another_library(gpu: Gpu) -> None:
    driver = gpu.open()
    mine, event = driver.open_stream(), driver.open_event()
    theirs = Borrowed(mine.handle)
    if gpu.name == "pycuda":
        with pytest.raises(BackendError, match="pycuda makes no stream") as caught:
            driver.record(event, theirs)
        assert "cuda-python" in caught.value.expected
    else:
        driver.record(event, theirs)
        driver.synchronise_event(event)
    driver.close()
