"""The kernels' headers compiled for tests, once per instruction set."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segformer_deploy.engine.native import library

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "segformer_deploy" / "engine" / "native" / "kernels"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
AVX2 = ["-mavx2", "-mfma"]
VARIANTS = {
    "baseline": [],
    "avx2": AVX2,
    "avx512": [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))],
    "portable": ["-U__SSE2__"],
}
"""``portable``: without intrinsics, as on a processor that none of ours are for."""
X86 = platform.machine() in ("x86_64", "AMD64")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


NEEDED = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
}
"""What /proc/cpuinfo must name, beside the processor being an x86-64."""


def missing_for(variant: str) -> set[str]:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if X86 and info.is_file() else set()
    return NEEDED.get(variant, set()) - flags


def force_variant(monkeypatch: pytest.MonkeyPatch, variant: str) -> str:
    """The installed network runs `variant`; a skip where this processor cannot."""
    if missing := missing_for(variant):
        pytest.skip(f"a processor without {', '.join(sorted(missing))}")
    monkeypatch.setenv(library.VARIABLE, variant)
    assert library.load_library().variant == variant
    return variant


def compiled(source: str, variant: str, folder: Path) -> ctypes.CDLL:
    """The library of `source`, a file beside this one, for `variant`."""
    if missing := missing_for(variant):
        pytest.skip(f"a processor without {', '.join(sorted(missing))}")
    library = folder / "library.so"
    # As CMakeLists.txt compiles the network.
    command = [str(COMPILER), "-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast"]
    command += ["-fno-math-errno", "-fno-trapping-math", f"-I{KERNELS}", *VARIANTS[variant]]
    subprocess.run([*command, str(HERE / source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(array: npt.NDArray[Any], dtype: Any = np.float32) -> ctypes.c_void_p:
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
