"""What the driver's refusals mean: one table for every binding, and the error made of it.

Names, numbers and texts are CUresult's of cuda.h, part of the driver's ABI: they never change.
The causes are what usually lies behind a refusal, as NVIDIA's reference and its forum tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from segformer_deploy.errors import BackendError, RunError

_DOCTOR = "segdeploy doctor says which driver and GPU are here"
_CLOSE = "build for a smaller size or batch, or close what else uses the GPU"
_RESTART = "restart the program; this process can use the GPU no more"
_DEFECT = "report it: this is a fault of segdeploy, or of who called it"
_REBUILD = "update the NVIDIA driver, or segdeploy, so that it brings kernels for this GPU"


class Result(NamedTuple):
    """One CUresult: its name, what cuGetErrorString says, the usual cause, what to do."""

    name: str
    text: str
    cause: str
    next_step: str = _DOCTOR


RESULTS = {
    1: Result("INVALID_VALUE", "invalid argument", "a size, address or handle is wrong", _DEFECT),
    2: Result("OUT_OF_MEMORY", "out of memory", "the GPU has no such memory free", _CLOSE),
    3: Result("NOT_INITIALIZED", "initialization error", "the driver was not initialised"),
    4: Result("DEINITIALIZED", "driver shutting down", "the program is about to end"),
    34: Result(
        "STUB_LIBRARY",
        "CUDA driver is a stub library",
        "this libcuda.so.1 is the toolkit's stub for linking, not the driver",
        "take the toolkit's stubs folder out of LD_LIBRARY_PATH",
    ),
    36: Result(
        "CALL_REQUIRES_NEWER_DRIVER",
        "API call is not supported in the installed CUDA driver",
        "the driver is older than this call",
        "update the NVIDIA driver",
    ),
    46: Result(
        "DEVICE_UNAVAILABLE",
        "CUDA-capable device(s) is/are busy or unavailable",
        "another program holds the GPU",
        "close the other program; nvidia-smi names it, and nvidia-smi --compute-mode=0 lets "
        "several share the GPU",
    ),
    100: Result(
        "NO_DEVICE",
        "no CUDA-capable device is detected",
        "the driver sees no GPU",
        "check CUDA_VISIBLE_DEVICES, and that a container was given the GPU (docker --gpus all)",
    ),
    101: Result(
        "INVALID_DEVICE",
        "invalid device ordinal",
        "there is no GPU of that number",
        "check CUDA_VISIBLE_DEVICES",
    ),
    200: Result(
        "INVALID_IMAGE", "device kernel image is invalid", "the kernels' file is damaged", _REBUILD
    ),
    201: Result(
        "INVALID_CONTEXT",
        "invalid device context",
        "another library destroyed or reset the context that this process shares",
        _RESTART,
    ),
    209: Result(
        "NO_BINARY_FOR_GPU",
        "no kernel image is available for execution on the device",
        "the kernels were compiled for other GPUs than this one",
        _REBUILD,
    ),
    214: Result(
        "ECC_UNCORRECTABLE",
        "uncorrectable ECC error encountered",
        "the GPU's memory lost bits: a defect, if it comes again",
        _RESTART,
    ),
    218: Result(
        "INVALID_PTX",
        "a PTX JIT compilation failed",
        "the driver could not compile the kernels' PTX for this GPU",
        _REBUILD,
    ),
    220: Result(
        "NVLINK_UNCORRECTABLE",
        "uncorrectable NVLink error detected during the execution",
        "a link between GPUs failed",
        _RESTART,
    ),
    221: Result(
        "JIT_COMPILER_NOT_FOUND",
        "PTX JIT compiler library not found",
        "libnvidia-ptxjitcompiler.so of the driver is not installed, as in a slim container",
        "install the driver's whole set of libraries",
    ),
    222: Result(
        "UNSUPPORTED_PTX_VERSION",
        "the provided PTX was compiled with an unsupported toolchain.",
        "the kernels' PTX is of a newer CUDA than the driver knows",
        _REBUILD,
    ),
    223: Result(
        "JIT_COMPILATION_DISABLED",
        "PTX JIT compilation was disabled",
        "CUDA_DISABLE_PTX_JIT or CUDA_FORCE_JIT stands in the environment",
        "unset CUDA_DISABLE_PTX_JIT",
    ),
    304: Result(
        "OPERATING_SYSTEM",
        "OS call failed or operation not supported on this OS",
        "the operating system refused (may this user read and write /dev/nvidia*?)",
    ),
    400: Result(
        "INVALID_HANDLE",
        "invalid resource handle",
        "a stream, event, module or graph is closed, or of another context",
        _DEFECT,
    ),
    500: Result(
        "NOT_FOUND",
        "named symbol not found",
        "the module has no kernel of that name, or the driver no such call",
        _REBUILD,
    ),
    600: Result("NOT_READY", "device not ready", "the work is not done yet", _DEFECT),
    700: Result(
        "ILLEGAL_ADDRESS",
        "an illegal memory access was encountered",
        "a kernel or copy before this call went beside its memory",
        _RESTART,
    ),
    701: Result(
        "LAUNCH_OUT_OF_RESOURCES",
        "too many resources requested for launch",
        "a block has more threads, registers or shared memory than this GPU",
        _DEFECT,
    ),
    702: Result(
        "LAUNCH_TIMEOUT",
        "the launch timed out and was terminated",
        "the GPU drives a display, which ends long kernels",
        _RESTART,
    ),
    716: Result(
        "MISALIGNED_ADDRESS",
        "misaligned address",
        "a kernel before this call read a number across its alignment",
        _RESTART,
    ),
    719: Result(
        "LAUNCH_FAILED",
        "unspecified launch failure",
        "a kernel before this call crashed, or the GPU was lost: the kernel's log (dmesg) may "
        "name an Xid",
        _RESTART,
    ),
    801: Result("NOT_SUPPORTED", "operation not supported", "this GPU or system lacks it"),
    802: Result(
        "SYSTEM_NOT_READY",
        "system not yet initialized",
        "the GPUs are not ready yet (is the fabric manager running?)",
    ),
    803: Result(
        "SYSTEM_DRIVER_MISMATCH",
        "system has unsupported display driver / cuda driver combination",
        "the kernel's part of the driver and libcuda.so.1 are of different versions",
        "reboot",
    ),
    804: Result(
        "COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "forward compatibility was attempted on non supported HW",
        "libcuda.so.1 is of the forward compatibility package, which this GPU cannot use",
        "update the NVIDIA driver, or take the package cuda-compat away",
    ),
    900: Result(
        "STREAM_CAPTURE_UNSUPPORTED",
        "operation not permitted when stream is capturing",
        "something inside a capture waits, or takes memory",
        _DEFECT,
    ),
    901: Result(
        "STREAM_CAPTURE_INVALIDATED",
        "operation failed due to a previous error during capture",
        "a call before this one ended the capture",
        _DEFECT,
    ),
    904: Result(
        "STREAM_CAPTURE_UNJOINED",
        "capturing stream has unjoined work",
        "a stream that joined the capture was not waited for",
        _DEFECT,
    ),
    905: Result(
        "STREAM_CAPTURE_ISOLATION",
        "dependency created on uncaptured work in another stream",
        "a capture waits for an event from outside it",
        _DEFECT,
    ),
    907: Result(
        "CAPTURED_EVENT",
        "operation not permitted on an event last recorded in a capturing stream",
        "an event of a capture is used outside it",
        _DEFECT,
    ),
    999: Result(
        "UNKNOWN",
        "unknown error",
        "the driver does not say more; the kernel's log (dmesg) may",
        _RESTART,
    ),
}
CODES = {result.text: code for code, result in RESULTS.items()}
"""Numbers by cuGetErrorString's text: all that pycuda's exceptions tell."""
_NOT_ON_THIS_MACHINE = frozenset(
    {34, 36, 46, 100, 101, 200, 209, 218, 221, 222, 223, 802, 803, 804}
)


def error_from_result(call: str, code: int, name: str = "") -> RunError | BackendError:
    """The error of a driver's call that did not answer CUDA_SUCCESS.

    Args:
        code: the CUresult.
        name: what the binding calls it, for numbers that are younger than the table.

    A BackendError where no other size or frame would help on this machine, else a RunError.
    """
    result = RESULTS.get(code)
    kind = BackendError if code in _NOT_ON_THIS_MACHINE else RunError
    if result is None:
        return kind(f"{call} failed: {name or 'error'} ({code})", "CUDA_SUCCESS", _DOCTOR)
    found = f"{call} failed: CUDA_ERROR_{result.name} ({code}): {result.cause}"
    return kind(found, "CUDA_SUCCESS", result.next_step)


def cannot_be_used(why: RunError | BackendError) -> BackendError:
    """The error of a driver that did not open, of what it said."""
    steps = dict.fromkeys(filter(None, (why.next_step, _DOCTOR)))
    return BackendError(
        f"the GPU cannot be used: {why.found}", "an NVIDIA GPU with its driver", "; ".join(steps)
    )


def does_not_load(module: str, extra: str, error: ImportError) -> BackendError:
    """The error of a binding that is installed and cannot be imported."""
    return BackendError(
        f"the Python module '{module}' does not load: {error}",
        "it, with the libraries that it is linked against",
        f'pip install --force-reinstall "segformer-deploy[{extra}]"; {_DOCTOR}',
    )


@contextmanager
def about(what: str) -> Iterator[None]:
    """Begin an error that leaves the block with what was being asked for, and for whom."""
    try:
        yield
    except (RunError, BackendError) as error:
        raise type(error)(f"{what}: {error.found}", error.expected, error.next_step) from error
