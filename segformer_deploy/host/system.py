"""The system: board, operating system, Python, and what a Jetson says of its release and power."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from segformer_deploy.host.facts import (
    ROOT,
    Ask,
    Facts,
    SilentError,
    listed,
    output_of,
    read_text,
)

_NVIDIA = "0x10de"
# PCI class 03: display controllers; data-centre cards are 0x0302 ("3D controller").
_DISPLAY = "0x03"
_SECONDS = 3.0


@dataclass(frozen=True)
class System(Facts):
    """The board and what runs on it.

    Attributes:
        board: as the device tree calls it; PCs have none.
        jetson: whether this is an NVIDIA Jetson (also inside a container on one).
        l4t: release of NVIDIA's Linux for Jetson, such as "36.4.3".
        jetpack: version of the package nvidia-jetpack.
        power_mode: what nvpmodel says, such as "25W (1)".
        kernel: its release.
        virtual_environment: whether this Python runs in one.
        system_packages: whether this Python sees the packages of the system's own.
        nvidia_cards: NVIDIA display controllers on the PCI bus, with or without a driver.
    """

    board: str | None
    jetson: bool
    l4t: str | None
    jetpack: str | None
    power_mode: str | None
    os: str | None
    kernel: str | None
    python: str
    virtual_environment: bool
    system_packages: bool
    nvidia_cards: int
    unknown: dict[str, str] = field(default_factory=dict)


def system_facts(root: Path = ROOT) -> System:
    """Of the device tree, /etc, dpkg's own records and nvpmodel."""
    ask = Ask()
    board = ask("board", lambda: read_text(root / "proc/device-tree/model"))
    l4t = ask("l4t", lambda: _l4t(root))
    kernel = ask("kernel", lambda: read_text(root / "proc/sys/kernel/osrelease"))
    environment = sys.prefix != sys.base_prefix
    return System(
        board=board,
        jetson=l4t is not None or _is_tegra(root) or "tegra" in (kernel or ""),
        l4t=l4t,
        jetpack=ask("jetpack", lambda: _package_version("nvidia-jetpack", root)),
        power_mode=ask("power_mode", _power_mode),
        os=ask("os", lambda: _os_name(root)),
        kernel=kernel,
        python=platform.python_version(),
        virtual_environment=environment,
        system_packages=not environment or _sees_system_packages(Path(sys.prefix)),
        nvidia_cards=_nvidia_cards(root),
        unknown=ask.unknown,
    )


def _is_tegra(root: Path) -> bool:
    try:
        # NUL-separated names, from the board's to the chip's.
        return "nvidia,tegra" in read_text(root / "proc/device-tree/compatible")
    except SilentError:
        return False


def _l4t(root: Path) -> str:
    """From ``# R36 (release), REVISION: 4.3, GCID: …`` to 36.4.3."""
    text = read_text(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    if not found:
        raise SilentError("/etc/nv_tegra_release reads otherwise than expected")
    return f"{found[1]}.{found[2]}"


def _package_version(name: str, root: Path) -> str:
    """A Debian package's version from dpkg's records: a program less to start and to miss."""
    path = root / "var/lib/dpkg/status"
    for stanza in read_text(path).split("\n\n"):
        if f"Package: {name}\n" not in f"{stanza}\n":
            continue
        pairs = (line.partition(": ") for line in stanza.splitlines() if line[:1] != " ")
        fields = {key: value.strip() for key, _, value in pairs}
        # A package that was removed leaves its stanza behind while its settings are kept.
        if fields.get("Package") == name and fields.get("Status", "").endswith(" installed"):
            return fields["Version"]
    raise SilentError(f"the package {name} is not installed")


def _power_mode() -> str:
    """From ``NV Power Mode: 25W`` and a line with the mode's number."""
    text = output_of("nvpmodel", "-q", timeout=_SECONDS)
    found = re.search(r"NV Power Mode:\s*(\S+)\s*(\d+)?", text)
    if not found:
        raise SilentError("nvpmodel -q prints otherwise than expected")
    return f"{found[1]} ({found[2]})" if found[2] else found[1]


def _os_name(root: Path) -> str:
    for line in read_text(root / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip("\"'")
    raise SilentError("/etc/os-release has no PRETTY_NAME")


def _sees_system_packages(prefix: Path) -> bool:
    """A virtual environment says so itself; JetPack's TensorRT and OpenCV are system packages."""
    try:
        lines = read_text(prefix / "pyvenv.cfg").lower().splitlines()
    except SilentError:
        return False
    settings = {key.strip(): value.strip() for key, _, value in (x.partition("=") for x in lines)}
    return settings.get("include-system-site-packages") == "true"


def _nvidia_cards(root: Path) -> int:
    cards = 0
    for device in listed(root / "sys/bus/pci/devices", "*"):
        try:
            vendor, kind = read_text(device / "vendor"), read_text(device / "class")
        except SilentError:
            continue
        cards += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return cards
