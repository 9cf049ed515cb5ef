"""Board, release and power mode of a Jetson; what a PC says instead."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from segformer_deploy.host.system import system_facts
from tests.host import trees


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of programs, the only one on the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("segformer_deploy.host.facts._SYSTEM_PROGRAMS", ())
    return folder


def test_an_orin_nano(tmp_path: Path, programs: Path) -> None:
    trees.program(programs, "nvpmodel", 'test "$1" = -q && printf "NV Power Mode: 25W\\n1\\n"')
    system = system_facts(trees.orin_nano(tmp_path / "root"))
    assert system.jetson
    assert system.board == "NVIDIA Jetson Orin Nano Engineering Reference Kit Super"
    assert (system.l4t, system.jetpack) == ("36.4.3", "6.2.1+b38")
    assert system.power_mode == "25W (1)"
    assert system.os == "Ubuntu 22.04.5 LTS"
    assert system.kernel == "5.15.148-tegra"
    assert system.unknown == {}
    assert json.loads(json.dumps(system.to_dict())) == system.to_dict()


def test_a_laptop(tmp_path: Path, programs: Path) -> None:
    system = system_facts(trees.laptop(tmp_path / "root"))
    assert not system.jetson
    assert (system.l4t, system.jetpack, system.power_mode, system.board) == (None,) * 4
    assert system.os == "Fedora Linux 40"
    assert system.nvidia_cards == 1
    assert system.unknown["power_mode"] == "the program nvpmodel is not installed"
    assert "is not there" in system.unknown["l4t"]


def test_a_container_on_a_jetson_is_one(tmp_path: Path, programs: Path) -> None:
    files = {"proc/device-tree/compatible": "nvidia,p3768\0nvidia,tegra234\0"}
    assert system_facts(trees.write(tmp_path / "a", files)).jetson
    files = {"proc/sys/kernel/osrelease": "5.15.148-tegra\n"}
    assert system_facts(trees.write(tmp_path / "b", files)).jetson
    files = {"proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}
    assert not system_facts(trees.write(tmp_path / "c", files)).jetson


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("install ok installed", "6.2"),
        ("hold ok installed", "6.2"),
        ("deinstall ok config-files", None),
        ("install ok half-installed", None),
    ],
)
def test_jetpack_counts_where_it_is_installed(
    tmp_path: Path, programs: Path, status: str, expected: str | None
) -> None:
    text = f"Package: other\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: {status}\nVersion: 6.2"
    root = trees.write(tmp_path / "root", {"var/lib/dpkg/status": text})
    system = system_facts(root)
    assert system.jetpack == expected
    if expected is None:
        assert system.unknown["jetpack"] == "the package nvidia-jetpack is not installed"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'NVPM ERROR: no permission' >&2; exit 255", "no permission"),
        ("echo hello", "prints otherwise than expected"),
        ("exit 3", "exit code 3: no word"),
        ("exec /bin/sleep 20", "did not answer within 0.2 s"),
    ],
)
def test_an_nvpmodel_in_trouble(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setattr("segformer_deploy.host.system._SECONDS", 0.2)
    trees.program(programs, "nvpmodel", script)
    system = system_facts(trees.orin_nano(tmp_path / "root"))
    assert system.power_mode is None
    assert why in system.unknown["power_mode"]


def test_an_odd_release_file(tmp_path: Path, programs: Path) -> None:
    root = trees.write(tmp_path / "root", {"etc/nv_tegra_release": "hello\n"})
    system = system_facts(root)
    assert system.l4t is None
    assert "otherwise than expected" in system.unknown["l4t"]


@pytest.mark.parametrize(("setting", "sees"), [("true", True), ("false", False)])
def test_whether_an_environment_sees_the_systems_packages(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, setting: str, sees: bool
) -> None:
    text = f"home = /usr/bin\ninclude-system-site-packages = {setting}\n"
    trees.write(tmp_path / "env", {"pyvenv.cfg": text})
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    system = system_facts(tmp_path)
    assert system.virtual_environment
    assert system.system_packages is sees
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    system = system_facts(tmp_path)
    assert (system.virtual_environment, system.system_packages) == (False, True)
