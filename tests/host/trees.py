"""Trees of files as machines show them: a Jetson Orin Nano, a laptop, a Raspberry Pi."""

from __future__ import annotations

from pathlib import Path


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def program(folder: Path, name: str, script: str) -> None:
    """A program in `folder`, which is to be on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _arm(number: int, part: str, features: str) -> str:
    return (
        f"processor\t: {number}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n"
        f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    )


ORIN_FEATURES = "fp asimd evtstrm aes pmull sha1 crc32 atomics fphp asimdhp cpuid asimddp lrcpc"
_POLICY = "sys/devices/system/cpu/cpufreq"
_GPU = "sys/class/devfreq/17000000.gpu"

DPKG = """Package: nvidia-jetpack-dev
Status: install ok installed
Version: 9.9

Package: nvidia-jetpack
Status: install ok installed
Priority: standard
Maintainer: NVIDIA Corporation
Version: 6.2.1+b38
Description: NVIDIA Jetpack Meta Package
 Package: nvidia-jetpack
 Version: 1.0
"""


def orin_nano(root: Path) -> Path:
    """JetPack 6.2, two groups of cores, a CSI and a USB camera."""
    write(
        root,
        {
            "proc/cpuinfo": "".join(_arm(n, "0xd42", ORIN_FEATURES) for n in range(6)),
            "proc/meminfo": "MemTotal:  7802116 kB\nMemFree: 3 kB\nMemAvailable: 5985912 kB\n"
            "SwapTotal: 3901056 kB\nSwapFree: 3901055 kB\n",
            "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope\n",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Kit Super\0",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
            "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: "
            "generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "var/lib/dpkg/status": DPKG,
            f"{_GPU}/cur_freq": "306000000\n",
            f"{_GPU}/min_freq": "306000000\n",
            f"{_GPU}/max_freq": "1020000000\n",
            f"{_GPU}/governor": "nvhost_podgov\n",
            "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
            "dev/video0": "",
            "dev/video1": "",
            "dev/video10": "",
            "dev/video2": "",
            "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
            "sys/class/video4linux/video10/name": "HD Pro Webcam C920\n",
            "usr/lib/python3.10/dist-packages/cv2/__init__.py": "",
            "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
        },
    )
    for policy in ("policy0", "policy4"):
        write(
            root / _POLICY / policy,
            {
                "scaling_cur_freq": "729600\n",
                "scaling_min_freq": "729600\n",
                "scaling_max_freq": "1728000\n",
                "scaling_governor": "schedutil\n",
                "scaling_driver": "tegra194-cpufreq\n",
            },
        )
    return root


def laptop(root: Path) -> Path:
    """An x86 laptop with an NVIDIA card and a hybrid processor whose hardware sets the clock."""
    flags = "fpu sse2 avx2 fma avx_vnni"
    block = "processor\t: {}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7\n"
    policy = f"{_POLICY}/policy0"
    return write(
        root,
        {
            # One core with more than the other has: a thread may run on either.
            "proc/cpuinfo": block.format(0)
            + f"flags\t: {flags} avx512f\n\n"
            + block.format(1)
            + f"flags\t: {flags}\n\n",
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"
            "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
            "proc/self/cgroup": "0::/\n",
            "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
            "etc/os-release": "PRETTY_NAME='Fedora Linux 40'\n",
            "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
            "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
            # Its sound: NVIDIA's too, and no display.
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
            f"{policy}/scaling_cur_freq": "800000\n",
            f"{policy}/scaling_min_freq": "400000\n",
            f"{policy}/scaling_max_freq": "4700000\n",
            f"{policy}/scaling_governor": "powersave\n",
            f"{policy}/scaling_driver": "intel_pstate\n",
            f"{policy}/energy_performance_preference": "balance_performance\n",
        },
    )


def big_little(root: Path) -> Path:
    """A board whose two kinds of cores have different features."""
    blocks = [_arm(n, "0xd05", "fp asimd") for n in range(4)]
    blocks += [_arm(n, "0xd0b", "fp asimd asimddp i8mm") for n in range(4, 6)]
    return write(root, {"proc/cpuinfo": "".join(blocks) + "Model\t: Some Board\n"})
