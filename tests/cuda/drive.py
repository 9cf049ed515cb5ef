"""What a driver must do, as steps that any implementation of the protocol goes through.

Run as a program, it goes through them with `CudaDriver` on whatever libcuda.so.1 the loader
finds, and prints what that library counted; the tests give it memory_cuda.c.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.driver import CudaDriver, Driver, Rows
from segformer_deploy.errors import RunError, SegdeployError

Open = Callable[[], Driver]
_RNG = np.random.default_rng(0)


def _random(*shape: int) -> Any:
    return _RNG.integers(0, 256, shape, dtype=np.uint8)


def copies(open_driver: Open) -> None:
    """Bytes of every type come back as they went in, from anywhere in a block."""
    driver = open_driver()
    block = driver.allocate(5000, "a test")
    assert block.size == 5000
    source = _random(3, 50, 20)
    floats = source[0].astype(np.float32) / 7
    driver.copy_in(block.address + 5, source)
    driver.copy_in(block.address + 1000 * 4 - 8, floats[:2])
    back, floats_back = np.zeros_like(source), np.zeros_like(floats[:2])
    driver.copy_out(back, block.address + 5)
    driver.copy_out(floats_back, block.address + 1000 * 4 - 8)
    driver.synchronise()
    np.testing.assert_array_equal(back, source)
    np.testing.assert_array_equal(floats_back, floats[:2])
    block.close()
    driver.close()


def rows(open_driver: Open) -> None:
    """A strided copy moves its rows and nothing beside them."""
    driver = open_driver()
    source, target = driver.allocate(40 * 9, "source"), driver.allocate(64 * 9, "target")
    picture, before = _random(9, 40), _random(9, 64)
    driver.copy_in(source.address, picture)
    driver.copy_in(target.address, before)
    driver.copy_rows(Rows(source.address + 3, 40, target.address + 64 + 10, 64, 30, 7))
    after = np.zeros_like(before)
    driver.copy_out(after, target.address)
    driver.synchronise()
    expected = before.copy()
    expected[1:8, 10:40] = picture[:7, 3:33]
    np.testing.assert_array_equal(after, expected)
    for block in (source, target):
        block.close()
    driver.close()


def closing(open_driver: Open) -> None:
    """Everything may be closed twice."""
    driver = open_driver()
    block, other = driver.allocate(100, "one"), driver.allocate(200, "two")
    assert block.address != other.address
    assert driver.stream != 0
    for one in (block, block, other, other, driver, driver):
        one.close()


def closing_the_driver_first(open_driver: Open) -> None:
    """Memory goes back with its driver, though another one keeps the context."""
    first, second = open_driver(), open_driver()
    block = first.allocate(100, "one")
    kept = second.allocate(50, "two")
    first.close()
    block.close()
    picture = _random(50)
    second.copy_in(kept.address, picture)
    back = np.zeros_like(picture)
    second.copy_out(back, kept.address)
    second.synchronise()
    np.testing.assert_array_equal(back, picture)
    kept.close()
    second.close()


def another_thread(open_driver: Open) -> None:
    """Opened in one thread, used in a second and closed in a third."""
    driver = open_driver()
    found: list[Any] = []

    def in_thread(work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join()
        if found:
            raise found[0]

    def use() -> None:
        block = driver.allocate(10, "a thread")
        driver.copy_in(block.address, _random(10))
        driver.synchronise()
        block.close()

    in_thread(use)
    use()
    in_thread(use)
    in_thread(driver.close)


def out_of_bounds(open_driver: Open) -> None:
    """A copy beside its block is an error, at the latest when the stream is waited for."""
    driver = open_driver()
    block = driver.allocate(100, "one")
    with pytest.raises(RunError, match=r"are no device memory|CUDA_ERROR_ILLEGAL_ADDRESS"):
        driver.copy_in(block.address + 1, _random(100))
        driver.synchronise()
    block.close()
    driver.close()


STEPS = (copies, rows, closing, closing_the_driver_first, another_thread, out_of_bounds)


def out_of_memory(open_driver: Open) -> None:
    """Used where the device has 1000 bytes: the owner is named, and what fits still fits."""
    driver = open_driver()
    block = driver.allocate(900, "'image' of a test")
    owner = "'activations' of a test"
    with pytest.raises(RunError, match=f"2.5 MB of device memory for {owner}") as caught:
        driver.allocate(2_500_000, owner)
    assert caught.value.expected == "that much free memory"
    block.close()
    driver.allocate(1000, "'image' of a test").close()
    driver.close()


def asynchronous(open_driver: Open) -> None:
    """Nothing waits but `synchronise`."""
    driver = open_driver()
    block = driver.allocate(8, "a test")
    back = np.zeros(8, np.uint8)
    driver.copy_in(block.address, np.full(8, 7, np.uint8))
    kept = np.full(8, 9, np.uint8)
    driver.copy_in(block.address, kept)
    driver.copy_out(back, block.address)
    assert not back.any()
    driver.synchronise()
    assert (back == 9).all()
    block.close()
    driver.close()


def left_open(open_driver: Open) -> None:
    """What is never closed goes back with its driver."""
    first, second = open_driver(), open_driver()
    first.allocate(100, "one")
    first.close()
    second.close()


def main(names: list[str]) -> None:
    said = ""
    try:
        for name in names:
            if name == "open":
                driver = CudaDriver()
                said = driver.name
                driver.close()
            else:
                globals()[name](CudaDriver)
    except SegdeployError as error:
        said = f"{type(error).__name__}: {error}"
    state: list[int] = []
    try:
        count = ctypes.CDLL("libcuda.so.1").fake_cuda_state
    except (OSError, AttributeError):
        pass
    else:
        numbers = (ctypes.c_long * 5)()
        count(numbers)
        state = list(numbers)
    print(json.dumps({"said": said, "state": state}))


if __name__ == "__main__":
    main(sys.argv[1:])
