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

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "segformer_deploy" / "engine" / "native" / "kernels"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
VARIANTS = {"baseline": [], "avx2": ["-mavx2", "-mfma"], "portable": ["-U__SSE2__"]}
"""``portable``: without intrinsics, as on a processor that none of ours are for."""
X86 = platform.machine() in ("x86_64", "AMD64")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


def runs_avx2() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and " avx2 " in info.read_text() and " fma " in info.read_text()


def compiled(source: str, variant: str, folder: Path) -> ctypes.CDLL:
    """The library of `source`, a file beside this one, for `variant`."""
    if variant == "avx2" and not (X86 and runs_avx2()):
        pytest.skip("a processor without AVX2")
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
