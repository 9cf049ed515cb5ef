"""What ONNX Runtime's execution providers are asked for, and whether they were really taken.

ONNX Runtime drops a provider that does not start and carries on with the CPU, one line on
stderr aside. Nothing here believes it: what it took is asked afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.cuda.results import RESULTS
from segformer_deploy.errors import BackendError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_INSTALL = 'pip uninstall onnxruntime; pip install "segformer-deploy[gpu]"'
_INSUFFICIENT_DRIVER = 35
"""Of CUDA's runtime library; the other numbers are the driver's own too."""
_FAILURE = re.compile(r"CUDA (?:failure|error) (\d+)")


@dataclass(frozen=True)
class Wish:
    """How a provider is to work.

    Attributes:
        stream: handle of the CUDA stream that it is to work on; None for one of its own.
        arena: take memory in powers of two: fewer calls of the driver, more memory.
        precision: what the graph computes in; TensorRT's builder wants to be told.
        cache: folder for the plans that TensorRT builds; None builds them at every start.
    """

    stream: int | None = None
    arena: bool = True
    precision: str = "fp32"
    cache: Path | None = None


def provider_list(provider: str, wish: Wish) -> list[tuple[str, dict[str, str]]]:
    """`providers` of an InferenceSession, best first; ONNX Runtime adds the CPU at the end."""
    if provider == "cpu":
        return [(CPU, {})]
    cuda = CUDA, _on_stream(_cuda_options(wish), wish)
    if provider == "cuda":
        return [cuda]
    # CUDA for what TensorRT does not take; else the CPU would get it, over the bus and back.
    return [(TENSORRT, _on_stream(_tensorrt_options(wish), wish)), cuda]


def _cuda_options(wish: Wish) -> dict[str, str]:
    return {
        "device_id": "0",
        # On other streams copies race with kernels, as ONNX Runtime's own reference warns.
        "do_copy_in_default_stream": "1",
        # EXHAUSTIVE picks algorithms by the clock: another rounding at each start, and a search
        # at each new size of frame.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The precision is what the file states: TF32 keeps 10 bits of FP32's 23.
        "use_tf32": "0",
        "arena_extend_strategy": "kNextPowerOfTwo" if wish.arena else "kSameAsRequested",
    }


def _tensorrt_options(wish: Wish) -> dict[str, str]:
    options = {
        "device_id": "0",
        # Its network is weakly typed: without these it may not use what the graph is written in.
        "trt_fp16_enable": str(wish.precision != "fp32"),
        "trt_int8_enable": str(wish.precision == "int8"),
        "trt_engine_cache_enable": str(wish.cache is not None),
        "trt_timing_cache_enable": str(wish.cache is not None),
    }
    if wish.cache is not None:
        options["trt_engine_cache_path"] = options["trt_timing_cache_path"] = str(wish.cache)
    return options


def _on_stream(options: dict[str, str], wish: Wish) -> dict[str, str]:
    # Without one, ONNX Runtime makes its own; a "0" would be CUDA's default stream.
    return options if wish.stream is None else {**options, "user_compute_stream": str(wish.stream)}


def checked_provider(ort: Any, provider: str) -> str:
    """ONNX Runtime's name of `provider`; BackendError where this build of it has none."""
    name = PROVIDERS[provider]
    available = ort.get_available_providers()
    if name not in available:
        raise BackendError(
            f"this onnxruntime has no {name} (it has: {', '.join(available)})",
            "an onnxruntime built with it",
            _INSTALL,
        )
    return name


def check_taken(session: Any, provider: str, stream: int | None) -> None:
    """BackendError where `session` does not run on `provider` and, where one is given, `stream`."""
    wanted, chosen = PROVIDERS[provider], session.get_providers()
    if chosen[0] != wanted:
        raise BackendError(
            f"{wanted} could not be started; onnxruntime chose {chosen[0]}",
            f"{wanted}, as asked",
            "onnxruntime's own line on stderr names the library that it misses, mostly of cuDNN, "
            "CUDA or TensorRT: install it; or run with --provider cpu",
        )
    if stream is None:
        return
    for name, options in session.get_provider_options().items():
        # A release that does not know the option from Python works on another stream, and what
        # it reads would race with what we write.
        if name != CPU and int(options.get("user_compute_stream") or "0", 0) != stream:
            raise BackendError(
                f"this onnxruntime does not put {name} on our CUDA stream",
                "onnxruntime-gpu 1.18 or later",
                'pip install --upgrade "segformer-deploy[gpu]"; or run with --device cpu',
            )


def not_started(provider: str, version: str, said: str) -> BackendError:
    """The error of a provider that refused, of what it said."""
    return BackendError(
        f"{PROVIDERS[provider]} of onnxruntime {version} does not start: {said}",
        f"{PROVIDERS[provider]}, as asked",
        f"{_step(said)}; or run with --provider cpu",
    )


def _step(said: str) -> str:
    found = _FAILURE.search(said)
    code = int(found.group(1)) if found else None
    if code == _INSUFFICIENT_DRIVER or "driver version is insufficient" in said:
        return "update the NVIDIA driver: this onnxruntime was built for a newer CUDA"
    if code in RESULTS:
        return RESULTS[code].next_step
    if "nknown provider option" in said:
        return 'pip install --upgrade "segformer-deploy[gpu]"'
    return "segdeploy doctor says which driver and GPU are here"
