"""NVRTC for tests: of the proof folder, as `make test` installs it."""

from __future__ import annotations

from functools import lru_cache

from segformer_deploy.cuda.compile import Nvrtc
from segformer_deploy.cuda.nvrtc_library import Version, libraries_under
from tests.engine.trt.proof import folder_with, missing


@lru_cache(maxsize=2)
def nvrtc(version: Version) -> Nvrtc:
    """NVRTC of this release; the test is skipped, or fails, where it is not installed."""
    folder = folder_with("nvidia")
    for path in libraries_under(folder):
        found = Nvrtc(path)
        if found.version == version:
            return found
    missing(f"NVRTC {version} in {folder}", "see requirements/proof.txt")


@lru_cache(maxsize=2)
def newest_ptx() -> str:
    """What the newer compiler makes of the kernels, for the newest architecture."""
    return nvrtc((13, 5)).compile("compute_120", "ptx").data.decode()
