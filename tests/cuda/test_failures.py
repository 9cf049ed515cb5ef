"""Each call of the driver failing in turn: a named error, and nothing held once all is closed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.driver import Driver, Rows
from segformer_deploy.errors import BackendError, RunError
from tests.cuda.gpus import Gpu, Work, in_thread

real = pytest.mark.parametrize("gpu", ["cuda-python", "pycuda"], indirect=True)
CLOSING = ("Free", "Destroy", "Unload", "Release", "PopCurrent")
"""Where these fail, pycuda prints a line at most, and the context's end gives back the rest."""


def everything(driver: Driver) -> None:
    """Every call that a driver offers, once at least."""
    work = Work(driver)
    one, two = work.floats(100, 1), work.floats(100)
    pinned = driver.allocate_host(400, "frames")
    start, end = driver.open_event(timing=True), driver.open_event(timing=True)
    other = driver.open_stream()
    driver.record(start, work.stream)
    work.scale(one, two, 2.0)
    driver.copy(one.address, two.address, 100, work.stream)
    driver.copy_rows(Rows(one.address, 40, two.address, 40, 20, 3), work.stream)
    driver.copy_out(pinned.array, two.address, work.stream)
    driver.record(end, work.stream)
    driver.wait(other, end)
    if driver.graphs:
        graph = driver.capture(work.stream, lambda: work.scale(one, two, 3.0))
        graph.launch(work.stream)
        driver.synchronise(work.stream)
        graph.close()
    driver.synchronise_event(end)
    driver.synchronise(other)
    assert driver.elapsed_ms(start, end) > 0
    assert driver.memory_info()[0] > 0
    for held in (pinned, start, end, work.module, one, two, other, work.stream):
        held.close()


def go(gpu: Gpu, errors: list[Any]) -> None:
    """Open, use and close, with every error that one meets."""

    def noting(call: Callable[[], None]) -> None:
        try:
            call()
        except (RunError, BackendError) as error:
            errors.append(error)

    def opened() -> None:
        driver = gpu.open()
        noting(lambda: everything(driver))
        noting(driver.close)
        driver.close()

    noting(opened)


def calls_of(gpu: Gpu) -> list[str]:
    gpu.host.reset(1)
    errors: list[Any] = []
    go(gpu, errors)
    assert errors == []
    return gpu.host.calls


@real
def test_each_call_failing_once(gpu: Gpu) -> None:
    calls = calls_of(gpu)
    assert len(set(calls)) > 20
    for number, name in enumerate(calls):
        gpu.host.reset(1)
        gpu.host.fail(skip=number, code=999)
        errors: list[Any] = []
        go(gpu, errors)
        assert gpu.host.calls[number] == name
        where = f"call {number}, {name}: {errors}"
        said = f"{name} failed: CUDA_ERROR_UNKNOWN (999): "
        if errors or gpu.name == "cuda-python" or not any(word in name for word in CLOSING):
            assert said in errors[0].found, where
            assert errors[0].expected, where
            assert errors[0].next_step, where
        assert (gpu.host.held, gpu.host.host_held, gpu.host.retained) == (0, 0, 0), where
        # pycuda pushes a context before it closes anything: with that, the closing fails.
        doing = calls[number + 1] if name == "cuCtxPushCurrent" else name
        if not any(word in doing for word in CLOSING):
            assert gpu.host.leaked == 0, where
        assert gpu.host.faults == [], where
    gpu.host.reset(1)


@real
def test_a_context_that_does_not_leave_its_thread_at_once(gpu: Gpu) -> None:
    """pycuda ends the program where a thread ends with contexts on its stack."""
    driver = gpu.open()
    work = Work(driver)
    gpu.host.fail("cuCtxPopCurrent", code=999)
    gpu.host.fail("cuCtxSetCurrent", code=999)
    with pytest.raises(RunError, match=r"cuCtx\w+ failed: CUDA_ERROR_UNKNOWN"):
        in_thread(lambda: driver.synchronise(work.stream))
    in_thread(lambda: driver.synchronise(work.stream))
    driver.close()


@real
def test_a_device_that_is_lost_at_any_time(gpu: Gpu) -> None:
    """Every call fails from there; the program ends with our error, and holds nothing."""
    calls = calls_of(gpu)
    for number in range(len(calls)):
        gpu.host.reset(1)
        gpu.host.fail(skip=number, code=719, once=False)
        errors: list[Any] = []
        with contextlib.suppress(AssertionError):
            go(gpu, errors)
        assert errors or any(word in calls[number] for word in CLOSING), calls[number]
        assert all("CUDA_ERROR_LAUNCH_FAILED (719)" in error.found for error in errors)
        if gpu.name == "cuda-python":
            assert (gpu.host.held, gpu.host.retained) == (0, 0), calls[number]
    gpu.host.reset(1)


@real
@pytest.mark.parametrize(
    ("code", "says", "kind"),
    [
        (100, "CUDA_ERROR_NO_DEVICE (100): the driver sees no GPU", BackendError),
        (999, "CUDA_ERROR_UNKNOWN (999): ", BackendError),
        (803, "803", BackendError),
    ],
)
def test_no_usable_gpu(gpu: Gpu, code: int, says: str, kind: type[Exception]) -> None:
    for name in ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuDeviceGetAttribute"):
        gpu.host.reset(1)
        gpu.host.fail(name, code=code)
        with pytest.raises(kind) as caught:
            gpu.open()
        assert str(caught.value).startswith(f"the GPU cannot be used: {name} failed: ") or (
            gpu.name == "pycuda" and code == 803
        )
        assert says in str(caught.value) or (gpu.name == "pycuda" and code == 803)
        assert "segdeploy doctor" in str(caught.value)
        assert gpu.host.retained == 0


@real
@pytest.mark.parametrize("code", [209, 222])
def test_kernels_that_this_gpu_cannot_use(gpu: Gpu, code: int) -> None:
    driver = gpu.open()
    name = "cuModuleLoadDataEx" if gpu.name == "pycuda" else "cuModuleLoadData"
    gpu.host.fail(name, code=code)
    with pytest.raises(BackendError, match=rf"{name} failed: CUDA_ERROR_\w+ \({code}\)") as caught:
        driver.load_module(b"PTX of a test")
    assert "update the NVIDIA driver" in caught.value.next_step
    driver.close()


@real
def test_a_kernel_beside_its_memory_ends_the_context(gpu: Gpu) -> None:
    """The error shows at the wait, sticks to the driver, and names what to do."""
    from tests.cuda.gpus import Poke

    driver = gpu.open()
    work = Work(driver)
    block = work.floats(10)
    job = Poke(block.address, 1 << 30, 1)
    driver.launch(work.function("toy_poke"), (1, 1, 1), (1, 1, 1), [job], work.stream)
    for use in (lambda: driver.synchronise(work.stream), lambda: driver.allocate(1, "a test")):
        with pytest.raises(RunError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\)") as caught:
            use()
        assert "restart" in caught.value.next_step
    with contextlib.suppress(RunError):
        driver.close()
    assert gpu.host.faults == ["toy_poke touched what is no memory"]
    assert (gpu.host.held, gpu.host.retained) == (0, 0)
    gpu.host.reset(1)
    again = gpu.open()
    assert Work(again).read(Work(again).floats(3, 2)).tolist() == [2.0] * 3
    again.close()


@real
def test_the_first_error_of_a_close_is_told_and_all_is_closed(gpu: Gpu) -> None:
    driver = gpu.open()
    blocks = [driver.allocate(100, str(n)) for n in range(3)]
    pinned = driver.allocate_host(100, "pinned")
    gpu.host.fail("cuMemFreeHost", code=400)
    if gpu.name == "cuda-python":
        with pytest.raises(RunError, match=r"cuMemFreeHost failed: CUDA_ERROR_INVALID_HANDLE"):
            driver.close()
    else:
        driver.close()
    for one in (*blocks, pinned, driver):
        one.close()
    assert (gpu.host.retained, gpu.host.leaked) == (0, 1)
    gpu.host.reset(1)


@real
def test_an_error_inside_a_capture_keeps_its_name(gpu: Gpu) -> None:
    driver = gpu.open()
    if not driver.graphs:
        driver.close()
        pytest.skip("it offers no graphs")
    work = Work(driver)
    block = work.floats(10, 2)
    gpu.host.fail("cuLaunchKernel", code=701)
    with pytest.raises(RunError, match=r"cuLaunchKernel failed: CUDA_ERROR_LAUNCH_OUT_OF"):
        driver.capture(work.stream, lambda: work.scale(block, block, 2.0))
    assert gpu.host.graphs == 0
    gpu.host.fail("cuGraphInstantiateWithFlags", code=2)
    gpu.host.fail("cuGraphInstantiate", code=2)
    with pytest.raises(RunError, match=r"cuGraphInstantiate failed: CUDA_ERROR_OUT_OF_MEMORY"):
        driver.capture(work.stream, lambda: work.scale(block, block, 2.0))
    assert gpu.host.graphs == 0
    np.testing.assert_array_equal(work.read(block), [2.0] * 10)
    driver.close()
