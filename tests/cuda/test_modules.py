"""Which image a GPU gets."""

from __future__ import annotations

import pytest

from segformer_deploy.cuda import modules
from segformer_deploy.cuda.compiled import shipped
from segformer_deploy.cuda.modules import image_for, images_for
from segformer_deploy.errors import BackendError, MissingDependencyError
from tests.cuda.nvrtc import nvrtc

Version = tuple[int, int]
BY_FILE = {one.file: one.read() for one in shipped()}
PTX = "compute_75.ptx"


@pytest.mark.parametrize(
    ("capability", "cuda", "file", "says"),
    [
        ((7, 5), (12, 0), "sm_75.cubin", "made for this GPU's 7.5"),
        ((8, 0), None, "sm_80.cubin", "made for this GPU's 8.0"),
        ((8, 6), (12, 4), "sm_86.cubin", "made for this GPU's 8.6"),
        ((8, 7), (12, 6), "sm_87.cubin", "made for this GPU's 8.7"),
        ((8, 7), (13, 2), "sm_87.cubin", "made for this GPU's 8.7"),
        ((8, 9), (13, 0), "sm_89.cubin", "made for this GPU's 8.9"),
        ((9, 0), (12, 2), "sm_90.cubin", "made for this GPU's 9.0"),
        ((10, 3), (13, 0), "sm_100.cubin", "the same major revision, an older minor one"),
        ((11, 0), (13, 0), "sm_110.cubin", "made for this GPU's 11.0"),
        ((12, 1), (13, 0), "sm_120.cubin", "which a GPU of 12.1 runs too"),
        # Cubins of CUDA 13 do not load on a driver for 12; the PTX of 12.6 does from 12.6 on.
        ((12, 0), (12, 8), PTX, "compiled by the driver"),
        ((10, 0), (12, 9), PTX, "compiled by the driver"),
        # Tegra: just this architecture, and for nobody else.
        ((8, 8), (13, 0), PTX, "no cubin is shipped that it takes for 8.8"),
        ((10, 1), (12, 9), PTX, "compiled by the driver"),
        ((10, 1), (13, 0), PTX, "compiled by the driver"),
        # Not yet made.
        ((13, 0), (14, 0), PTX, "compiled by the driver"),
    ],
)
def test_the_best_image(capability: Version, cuda: Version | None, file: str, says: str) -> None:
    image = image_for(capability, cuda)
    expected = BY_FILE[file]
    assert image.data == (expected + b"\0" if file == PTX else expected)
    assert (image.kind, image.kind in image.how) == (file.rpartition(".")[2], True)
    assert says in image.how


def test_what_else_may_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_compiled_here", lambda *_: modules.Image(b"", "ptx", "here"))
    tried = [image.how for image in _until_the_end((8, 9), (12, 6))]
    kinds = ["for 8.9", "for 8.6", "for 8.0", "ptx for 7.5", "here"]
    assert all(kind in how for kind, how in zip(kinds, tried, strict=True))


@pytest.mark.parametrize("capability", [(7, 2), (7, 0), (5, 3)])
def test_gpus_that_are_too_old(capability: Version) -> None:
    with pytest.raises(BackendError, match="compute capability") as caught:
        image_for(capability)
    assert caught.value.expected == "7.5 or newer"
    assert "--backend native" in caught.value.next_step


def test_an_old_driver_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MissingDependencyError("nvrtc", "cuda", "a test")

    monkeypatch.setattr(modules, "find_nvrtc", list)
    monkeypatch.setattr(modules, "Nvrtc", none)
    with pytest.raises(BackendError) as caught:
        image_for((8, 7), (11, 4))
    found = caught.value.found
    assert "cubin for 8.7 (NVRTC 12.6.85) needs a driver for CUDA 12.0 or newer" in found
    assert "ptx for 7.5 (NVRTC 12.6.85) needs a driver for CUDA 12.6 or newer" in found
    assert "compiling it here failed: the Python module 'nvrtc' is not installed" in found


def test_an_old_driver_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = nvrtc((12, 6))
    monkeypatch.setattr(modules, "find_nvrtc", lambda: ["anywhere"])
    monkeypatch.setattr(modules, "Nvrtc", lambda _: compiler)
    *_, last = _until_the_end((8, 9), (12, 4))
    assert (last.kind, last.data) == ("cubin", BY_FILE["sm_89.cubin"])
    assert "compiled here by NVRTC 12.6.85" in last.how
    assert "needs a driver for CUDA 12.6" in last.how


def test_a_compiler_that_does_not_know_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = nvrtc((12, 6))
    monkeypatch.setattr(modules, "find_nvrtc", lambda: ["anywhere"])
    monkeypatch.setattr(modules, "Nvrtc", lambda _: compiler)
    *_, last = _until_the_end((12, 0), (12, 8))
    assert last.kind == "ptx"
    assert last.data == BY_FILE[PTX] + b"\0"
    with pytest.raises(BackendError, match=r"does not compile for sm_120"):
        image_for((12, 0), (12, 4))
    with pytest.raises(BackendError, match=r"NVRTC 12\.6 is newer than the driver's CUDA 11\.4"):
        image_for((8, 7), (11, 4))


def _until_the_end(capability: Version, cuda: Version) -> list[modules.Image]:
    found = []
    with pytest.raises(BackendError, match="not even"):
        for image in images_for(capability, cuda):
            found.append(image)
    return found
