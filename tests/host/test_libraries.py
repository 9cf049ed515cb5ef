"""Libraries from records alone where there are any; broken and half-removed ones are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segformer_deploy.host.libraries import library, library_facts
from tests.host import trees


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in front of all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def record(site: Path, package: str, version: str) -> None:
    folder = f"{package.replace('-', '_')}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    trees.write(site, {f"{folder}/METADATA": text})


def test_a_record_is_enough(site: Path) -> None:
    trees.write(site, {"segzoo_a/__init__.py": "raise RuntimeError('imported')"})
    record(site, "segzoo-a", "1.2.3")
    found = library("segzoo_a", "segzoo-a")
    assert (found.installed, found.version, found.packages) == (True, "1.2.3", ("segzoo-a 1.2.3",))
    assert (found.why, found.loads) == (None, None)


def test_without_a_record_the_module_tells(site: Path) -> None:
    trees.write(site, {"segzoo_b/__init__.py": "__version__ = '4.8.0'"})
    found = library("segzoo_b", "segzoo-b")
    assert (found.version, found.packages, found.loads) == ("4.8.0", (), True)


def test_never_means_never(site: Path) -> None:
    trees.write(site, {"segzoo_c/__init__.py": "raise RuntimeError('imported')"})
    found = library("segzoo_c", "segzoo-c", load="never")
    assert (found.installed, found.version, found.loads) == (True, None, None)
    assert found.why == "no record of it"


def test_one_that_does_not_load(site: Path) -> None:
    code = "raise ImportError('libGL.so.1: cannot open shared object file')"
    trees.write(site, {"segzoo_d/__init__.py": code})
    record(site, "segzoo-d", "4.10")
    found = library("segzoo_d", "segzoo-d", load="always")
    assert (found.installed, found.version, found.loads) == (True, "4.10", False)
    assert "libGL.so.1" in str(found.why)


def test_type_stubs_are_no_library(site: Path) -> None:
    trees.write(site, {"segzoo_e/__init__.pyi": "__version__: str"})
    found = library("segzoo_e", "segzoo-e")
    assert (found.installed, found.why) == (False, "not installed")


def test_a_record_without_its_module(site: Path) -> None:
    record(site, "segzoo-f", "1.0")
    found = library("segzoo_f", "segzoo-f")
    assert (found.installed, found.version) == (False, None)
    assert "segzoo-f 1.0 is recorded, but the module is missing" in str(found.why)


def test_a_record_without_a_version(site: Path) -> None:
    trees.write(
        site,
        {"segzoo_g/__init__.py": "", "segzoo_g-1.dist-info/METADATA": "Name: segzoo-g\n"},
    )
    found = library("segzoo_g", "segzoo-g")
    assert (found.installed, found.version, found.packages) == (True, None, ())
    assert found.why == "the module does not say its version"


def test_two_packages_of_one_module(site: Path) -> None:
    record(site, "segzoo-h", "1.0")
    record(site, "segzoo-h-gpu", "1.1")
    trees.write(site, {"segzoo_h/__init__.py": ""})
    found = library("segzoo_h", "segzoo-h", "segzoo-h-gpu")
    assert found.packages == ("segzoo-h 1.0", "segzoo-h-gpu 1.1")


def test_a_module_of_a_parent_that_is_missing() -> None:
    assert library("segzoo_none.bindings", "segzoo-none").why == "not installed"


def test_this_python(tmp_path: Path) -> None:
    facts = library_facts(tmp_path)
    assert facts.numpy.loads
    assert facts.opencv.loads
    assert (facts.system_opencv, facts.system_tensorrt) == (None, None)
    plain = facts.to_dict()
    assert json.loads(json.dumps(plain)) == plain


def test_a_jetsons_own_packages(tmp_path: Path) -> None:
    facts = library_facts(trees.orin_nano(tmp_path))
    assert facts.system_opencv == "/usr/lib/python3.10/dist-packages/cv2"
    assert facts.system_tensorrt == "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"


def test_neither_torch_nor_onnx_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom segformer_deploy.host.libraries import library_facts\nlibrary_facts()\n"
        "print([m for m in ('torch', 'onnx', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
