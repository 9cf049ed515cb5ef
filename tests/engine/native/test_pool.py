"""The kernels' threads under many short jobs, as they are and watched by ThreadSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "segformer_deploy" / "engine" / "native" / "kernels"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=thread"]], ids=" ".join)
def test_every_tile_once_and_nobody_late(flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / "pool"
    command = [str(COMPILER), "-std=gnu11", "-pthread", f"-I{KERNELS}", *flags]
    command += [str(HERE / "pool.c"), str(KERNELS / "pool.c"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "-fsanitize=thread" in flags:
        pytest.skip("this compiler has no ThreadSanitizer")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=200)
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip("ThreadSanitizer does not start under this kernel")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
