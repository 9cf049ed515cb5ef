"""Compiling the kernels, and what is shipped of it: NVRTC itself, where it is installed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segformer_deploy.cuda import compiled, jobs, nvrtc_library
from segformer_deploy.cuda.compile import (
    KERNELS,
    Nvrtc,
    first_error,
    sources,
    sources_hash,
    uses_from_log,
)
from segformer_deploy.cuda.compiled.__main__ import CUBINS, NEW, OLD, PTX, check, main, make, write
from segformer_deploy.cuda.nvrtc_library import VARIABLE, find_nvrtc, load_nvrtc
from segformer_deploy.errors import BackendError, MissingDependencyError, VerificationError
from tests.cuda.nvrtc import nvrtc
from tests.cuda.ptx_text import kernels_of
from tests.engine.trt.proof import folder_with

NAMES = {
    *("class_map", "confidence", "overlay"),
    *("resample_bilinear", "resample_columns", "resample_rows"),
}


# ---- what is shipped ---------------------------------------------------------------------


def test_the_images_are_of_these_sources() -> None:
    assert compiled.read_index()["sources_sha256"] == sources_hash(), "run `make kernels`"


def test_every_image_is_whole_and_listed() -> None:
    files = {one.file for one in compiled.shipped()}
    on_disk = {path.name for path in compiled.FOLDER.iterdir() if path.suffix in (".cubin", ".ptx")}
    assert files == on_disk
    for one in compiled.shipped():
        assert hashlib.sha256(one.read()).hexdigest() == one.sha256
    sizes = sum(path.stat().st_size for path in compiled.FOLDER.glob("*.*"))
    assert sizes < 800_000


def test_each_architecture_has_its_image() -> None:
    found = {(one.architecture, one.compiler_version) for one in compiled.shipped()}
    wanted = {(name, version) for version, names in CUBINS.items() for name in names}
    assert found == wanted | {(PTX, OLD)}


def test_nothing_spills() -> None:
    for one in compiled.shipped():
        if one.kind == "cubin":
            assert set(one.kernels) == NAMES
            for use in one.kernels.values():
                assert use["spill_stores"] == use["spill_loads"] == use["stack"] == 0
                assert use["registers"] <= 64, "a multiprocessor runs 1024 threads with so many"
                assert use["shared"] in (0, 18944)


def test_a_cubin_is_code_of_its_architecture() -> None:
    for one in compiled.shipped():
        if one.kind == "cubin":
            data = one.read()
            assert data[:4] == b"\x7fELF"
            assert int.from_bytes(data[18:20], "little") == 190, "EM_CUDA"
            assert all(f".text.{name}".encode() in data for name in NAMES)
            # Of debuggers only how to unwind the stack: no lines, no names of the sources.
            assert set(re.findall(rb"\.(?:nv_)?debug_\w+", data)) <= {b".debug_frame"}


def test_the_ptx_takes_the_structs_that_we_hand_over() -> None:
    sizes = {
        "class_map": jobs.ClassMapJob,
        "confidence": jobs.ConfidenceJob,
        "overlay": jobs.OverlayJob,
        **dict.fromkeys(("resample_columns", "resample_rows"), jobs.ResampleJob),
        "resample_bilinear": jobs.BilinearJob,
    }
    kernels = kernels_of((compiled.FOLDER / f"{PTX}.ptx").read_text())
    assert set(kernels) == NAMES
    for name, struct in sizes.items():
        assert kernels[name].sizes["param"] == ctypes.sizeof(struct), name


def test_the_numbers_of_a_block_are_those_of_the_sources() -> None:
    text = "".join(sources().values())

    def number(name: str) -> int:
        found = re.search(rf"\b{name} = (\d+)", text)
        assert found, name
        return int(found[1])

    assert (number("TILE_X"), number("TILE_Y")) == (jobs.TILE_X, jobs.TILE_Y)
    assert number("THREADS_OF_PIXELS") == jobs.PIXELS
    assert number("THREADS_OF_OVERLAY") == jobs.OVERLAY_PIXELS
    formats = {name: number(name.upper()) for name in jobs.FORMATS}
    assert formats == jobs.FORMATS


def test_a_damaged_image_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compiled.shipped()[0]
    (tmp_path / one.file).write_bytes(one.read()[:-1] + b"x")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    with pytest.raises(BackendError, match=f"{one.file} is damaged"):
        one.read()
    (tmp_path / one.file).unlink()
    with pytest.raises(BackendError, match=f"cannot read .*{one.file}"):
        one.read()
    with pytest.raises(BackendError, match=r"cannot read .*index\.json"):
        compiled.read_index()


# ---- NVRTC -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", CUBINS)
def test_the_compiler_gives_the_shipped_bytes(version: tuple[int, int]) -> None:
    compiler = nvrtc(version)
    mine = [one for one in compiled.shipped() if one.compiler_version == version]
    for one in mine[:1] + mine[-1:]:
        made = compiler.compile(one.architecture, one.kind)
        assert made.data == one.read(), f"{one.file}: run `make kernels`"
        assert made.compiler == one.compiler
        assert {name: use.to_dict() for name, use in made.kernels.items()} == one.kernels


@pytest.mark.slow
def test_all_shipped_bytes_again() -> None:
    assert nvrtc(OLD).version, nvrtc(NEW).version
    check(make([folder_with("nvidia")]))


def test_an_error_of_the_compiler_is_told() -> None:
    files = {**sources(), "overlay.cuh": "/* broken */\nDEVICE int y() { return no_such_name; }\n"}
    with pytest.raises(BackendError) as caught:
        nvrtc(OLD).compile("sm_87", files=files)
    assert 'overlay.cuh(2): error: identifier "no_such_name" is undefined' in caught.value.found
    assert "NVRTC 12.6 did not compile" in caught.value.found
    with pytest.raises(BackendError, match=r"NVRTC 12\.6 does not compile for sm_120"):
        nvrtc(OLD).compile("sm_120")


def test_spills_are_read_from_the_log() -> None:
    log = """ptxas info    : Compiling entry function 'one' for 'sm_87'
ptxas info    : Function properties for one
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 18944 bytes smem
ptxas info    : Compiling entry function 'two' for 'sm_87'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 400 bytes cmem[0]
"""
    one, two = uses_from_log(log).values()
    assert one.to_dict() == {
        "registers": 255,
        "shared": 18944,
        "stack": 8,
        "spill_stores": 12,
        "spill_loads": 16,
    }
    assert (two.registers, two.shared, two.spill_loads) == (16, 0, 0)
    assert first_error("a warning\nx.cu(3): error: no\nmore") == "x.cu(3): error: no"
    assert first_error("") == "its log is empty"


# ---- where NVRTC is found ----------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No NVRTC in wheels, in toolkits or among the system's libraries."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr(nvrtc_library, "_TOOLKITS", ())
    monkeypatch.setattr(nvrtc_library, "_SYSTEM", ("libno-such-nvrtc.so",))
    return monkeypatch


def test_without_nvrtc(nowhere: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match="is not found") as caught:
        load_nvrtc()
    assert "nvidia-cuda-nvrtc-cu12" in caught.value.next_step


def test_a_library_that_does_not_load(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libnvrtc.so.12"
    broken.write_bytes(b"nothing")
    with pytest.raises(BackendError, match="NVRTC does not load"):
        Nvrtc(broken)
    nowhere.setenv(VARIABLE, str(tmp_path))
    assert find_nvrtc() == [broken]
    with pytest.raises(MissingDependencyError):
        Nvrtc()


def test_the_places_in_their_order(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels, root, named = tmp_path / "site", tmp_path / "root", tmp_path / "named" / "libnvrtc.so.1"
    places = [
        wheels / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        wheels / "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
        wheels / "nvidia/cu13/lib/libnvrtc.so.13",
        root / "usr/local/cuda-11.4/lib64/libnvrtc.so.11.2",
        named,
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    nowhere.setattr("sys.path", [str(wheels)])
    nowhere.setattr(nvrtc_library, "_TOOLKITS", ("usr/local/cuda*/lib64/libnvrtc.so.*",))
    assert find_nvrtc(root) == [places[2], places[0], places[3]]
    nowhere.setenv(VARIABLE, str(named))
    assert find_nvrtc(root) == [named, places[2], places[0], places[3]]


def test_a_library_of_something_else(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "empty.c").write_text("int nothing;\n")
    library = tmp_path / "libnvrtc.so.12"
    subprocess.run(
        [compiler, "-shared", "-fPIC", str(tmp_path / "empty.c"), "-o", str(library)], check=True
    )
    with pytest.raises(BackendError, match="has no function nvrtcVersion"):
        Nvrtc(library)


# ---- making them again -------------------------------------------------------------------


def test_a_check_names_what_differs(tmp_path: Path) -> None:
    images = [nvrtc(OLD).compile("sm_75"), nvrtc(OLD).compile(PTX, "ptx")]
    (tmp_path / "sm_50.cubin").write_bytes(b"old")
    write(images, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.json",
        "sm_75.cubin",
        f"{PTX}.ptx",
    }
    check(images, tmp_path)
    (tmp_path / "sm_75.cubin").write_bytes(b"other")
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "sources_sha256": "0"}))
    with pytest.raises(VerificationError, match=r"sm_75\.cubin, index\.json") as caught:
        check(images, tmp_path)
    assert caught.value.next_step == "make kernels"


def test_both_compilers_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nvrtc", str(tmp_path)]) == 1
    assert "NVRTC 12.6 is not among those given: none" in capsys.readouterr().err


def test_the_sources_are_all_there() -> None:
    assert set(sources()) == {path.name for path in KERNELS.iterdir() if path.is_file()}
