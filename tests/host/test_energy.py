"""Energy from trees of files, fake libraries and programs; joules done by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.host import tegrastats
from segformer_deploy.host.energy import Energy, EnergyMeter
from segformer_deploy.host.energy_sources import Counter
from segformer_deploy.host.facts import SilentError
from segformer_deploy.host.power import Sampled
from tests.host import trees

_RAPL = "sys/class/powercap/intel-rapl:0"
_INA = "sys/class/hwmon/hwmon1"
ORIN = (
    "11-25-2026 14:00:00 RAM 2431/7620MB (lfb 4x4MB) SWAP 0/3810MB CPU [1%@729,off] "
    "GR3D_FREQ 0% cpu@48.5C VDD_IN 4321mW/4300mW VDD_CPU_GPU_CV 512mW/510mW VDD_SOC 1200mW/1200mW"
)


def no_nvml() -> Any:
    raise OSError("libnvidia-ml.so.1: cannot open shared object file")


def rapl(root: Path, microjoules: int, *, wraps: int = 262_143_328_850) -> Path:
    return trees.write(
        root,
        {
            f"{_RAPL}/name": "package-0\n",
            f"{_RAPL}/energy_uj": f"{microjoules}\n",
            f"{_RAPL}/max_energy_range_uj": f"{wraps}\n",
            f"{_RAPL}:0/name": "core\n",
            f"{_RAPL}:0/energy_uj": "5\n",
        },
    )


def clock_of(*times: float) -> Callable[[], float]:
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_rapl_by_frame(tmp_path: Path) -> None:
    rapl(tmp_path, 1_000_000)
    with EnergyMeter(tmp_path, nvml=no_nvml, clock=clock_of(10.0, 12.0)) as meter:
        meter.mark(1)
        rapl(tmp_path, 7_000_000)
        meter.mark(5)
        energy = meter.ended()
    assert energy.joules_per_frame == pytest.approx(6 / 4)
    assert energy.watts == pytest.approx(3)
    assert (energy.frames, energy.covers) == (4, "processor package-0")
    assert set(energy.unknown) == {"ina", "tegrastats", "nvml"}


def test_rapl_wraps_around(tmp_path: Path) -> None:
    rapl(tmp_path, 990_000, wraps=999_999)
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        rapl(tmp_path, 10_000, wraps=999_999)
        meter.mark(2)
        assert meter.ended().readings[0].joules == pytest.approx(0.02)


@given(st.integers(10, 1000), st.lists(st.integers(0, 9), min_size=1))
def test_a_counter_adds_up_across_wraps(size: int, steps: list[int]) -> None:
    total = [0]
    counter = Counter("x", "x", lambda: total[0] % size, 0.5, size - 1)
    for step in steps:
        total[0] += step
        assert counter.joules() == total[0] * 0.5


def test_rapl_that_is_closed_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path, 1)

    def refused(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        meter.mark(2)
        energy = meter.ended()
    assert energy.joules_per_frame is None
    assert "is for root only" in energy.unknown["rapl"]


def test_a_jetsons_sensor(tmp_path: Path) -> None:
    trees.write(
        tmp_path,
        {
            f"{_INA}/name": "ina3221\n",
            f"{_INA}/in1_label": "VDD_IN\n",
            f"{_INA}/in1_input": "5000\n",
            f"{_INA}/curr1_input": "800\n",
            f"{_INA}/in2_label": "VDD_SOC\n",
            f"{_INA}/in2_input": "5000\n",
            f"{_INA}/curr2_input": "100\n",
            f"{_INA}/in7_label": "sum of shunt voltages\n",
        },
    )
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        time.sleep(0.12)
        meter.mark(3)
        energy = meter.ended()
    # A steady 4 W: whatever the time, so many joules.
    assert energy.watts == pytest.approx(4.0, rel=1e-6, abs=0.05)
    assert energy.joules_per_frame == pytest.approx(4.0 * energy.seconds / 2, rel=0.05)
    assert energy.covers == "the module (VDD_IN)"
    assert "tegrastats" not in energy.unknown  # the same sensors are not asked twice


def test_a_board_of_several_rails(tmp_path: Path) -> None:
    files = {f"{_INA}/name": "ina3221\n"}
    for channel, rail in ((1, "VDD_GPU_SOC"), (2, "VDD_CPU_CV"), (3, "NC")):
        files[f"{_INA}/in{channel}_label"] = f"{rail}\n"
        files[f"{_INA}/in{channel}_input"] = "1000\n"
        files[f"{_INA}/curr{channel}_input"] = "1000\n"
    with EnergyMeter(trees.write(tmp_path, files), nvml=no_nvml) as meter:
        meter.mark(1)
        time.sleep(0.02)
        meter.mark(2)
        energy = meter.ended()
    assert energy.watts == pytest.approx(2.0, rel=0.01)
    assert energy.covers == "the sum of the rails VDD_CPU_CV, VDD_GPU_SOC"


def test_tegrastats_where_the_sensors_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write(tmp_path, {"etc/nv_tegra_release": "# R36\n"})
    script = f'while :; do echo "{ORIN}"; sleep 0.02; done'
    trees.program(tmp_path / "bin", "tegrastats", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        time.sleep(0.06)
        meter.mark(2)
        energy = meter.ended()
    assert energy.watts == pytest.approx(4.321, rel=0.01)
    assert energy.readings[0].source == "tegrastats"


def energy_of_tegrastats(
    root: Path, monkeypatch: pytest.MonkeyPatch, script: str, seconds: float
) -> Energy:
    trees.write(root, {"etc/nv_tegra_release": "# R36\n"})
    trees.program(root / "bin", "tegrastats", script)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    with EnergyMeter(root, nvml=no_nvml) as meter:
        meter.mark(1)
        time.sleep(seconds)
        meter.mark(2)
        return meter.ended()


def test_a_tegrastats_that_dies_is_not_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = energy_of_tegrastats(tmp_path, monkeypatch, f'echo "{ORIN}"; sleep 0.1', 0.5)
    assert energy.joules_per_frame is None
    assert "tegrastats has ended" in energy.unknown["while measuring"]


def test_a_tegrastats_that_hangs_is_not_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tegrastats, "STALE_SECONDS", 0.2)
    energy = energy_of_tegrastats(tmp_path, monkeypatch, f'echo "{ORIN}"; exec sleep 9', 0.6)
    assert energy.joules_per_frame is None
    assert "has printed nothing for 0." in energy.unknown["while measuring"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 1", "tegrastats has ended"),
        ("exec sleep 9", "has printed nothing"),
        ("echo RAM 2/7620MB; exec sleep 9", "prints no power"),
    ],
)
def test_a_tegrastats_without_a_line_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(tegrastats, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(tegrastats, "STALE_SECONDS", 0.1)
    energy = energy_of_tegrastats(tmp_path, monkeypatch, script, 0)
    assert said in energy.unknown["tegrastats"]


class FakeNvml:
    """As libnvidia-ml answers: a status, values through pointers."""

    def __init__(self, counts: bool) -> None:
        self.counts, self.millijoules = counts, 1_000

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "nvmlDeviceGetCount_v2":
                arguments[0]._obj.value = 1
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                if not self.counts:
                    return 3  # NVML_ERROR_NOT_SUPPORTED
                self.millijoules += 500
                arguments[1]._obj.value = self.millijoules
            if name == "nvmlDeviceGetPowerUsage":
                arguments[1]._obj.value = 30_000
            return 0

        return call


def test_a_gpus_counter(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path, nvml=lambda: FakeNvml(counts=True)) as meter:
        meter.mark(1)
        meter.mark(2)
        energy = meter.ended()
    assert energy.joules_per_frame == pytest.approx(0.5)
    assert energy.covers == "GPU 0"


def test_a_gpu_that_tells_power_alone(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path, nvml=lambda: FakeNvml(counts=False)) as meter:
        meter.mark(1)
        time.sleep(0.02)
        meter.mark(2)
        assert meter.ended().watts == pytest.approx(30, rel=0.01)


class OldNvml(FakeNvml):
    """Of a driver without some functions: ctypes raises AttributeError."""

    def __init__(self, *missing: str) -> None:
        super().__init__(counts=True)
        self.missing = missing

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name in self.missing:
            raise AttributeError(f"undefined symbol: {name}")
        return super().__getattr__(name)


def test_a_library_without_the_counter_is_sampled(tmp_path: Path) -> None:
    old = OldNvml("nvmlDeviceGetTotalEnergyConsumption")
    with EnergyMeter(tmp_path, nvml=lambda: old) as meter:
        meter.mark(1)
        time.sleep(0.02)
        meter.mark(2)
        assert meter.ended().watts == pytest.approx(30, rel=0.01)


def test_a_library_that_tells_neither_says_what_it_lacks(tmp_path: Path) -> None:
    old = OldNvml("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    with EnergyMeter(tmp_path, nvml=lambda: old) as meter:
        assert meter.unknown["nvml"] == "this NVML has no nvmlDeviceGetPowerUsage"
    with EnergyMeter(tmp_path, nvml=lambda: OldNvml("nvmlInit_v2")) as meter:
        assert meter.unknown["nvml"] == "this NVML has no nvmlInit_v2"


def test_a_gpu_that_refuses(tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[..., int]:
            return lambda *_: 9  # NVML_ERROR_DRIVER_NOT_LOADED

    with EnergyMeter(tmp_path, nvml=Broken) as meter:
        assert meter.unknown["nvml"] == "nvmlInit_v2 answers with status 9"


def test_a_silent_machine_has_its_reasons(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        for done in (1, 2, 3):
            meter.mark(done)
        data = meter.ended().to_dict()
    assert data["joules_per_frame"] is None
    assert (data["frames"], data["readings"]) == (2, [])
    assert set(data["unknown"]) == {"ina", "tegrastats", "rapl", "nvml"}


def test_one_run_counts_nothing(tmp_path: Path) -> None:
    rapl(tmp_path, 1)
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        energy = meter.ended()
    assert energy.joules_per_frame is None
    assert "one run at most" in energy.unknown["frames"]


def test_a_sensor_that_fails_meanwhile(tmp_path: Path) -> None:
    rapl(tmp_path, 1)
    with EnergyMeter(tmp_path, nvml=no_nvml) as meter:
        meter.mark(1)
        (tmp_path / _RAPL / "energy_uj").write_text("broken")
        meter.mark(2)
        energy = meter.ended()
    assert energy.joules_per_frame is None
    assert "not a number" in energy.unknown["while measuring"]


def test_the_sampler_passes_a_failure_on_and_closes_twice() -> None:
    answers = iter([1.0])

    def watts() -> float:
        try:
            return next(answers)
        except StopIteration:
            raise SilentError("gone") from None

    sampled = Sampled("x", "x", watts, time.monotonic)
    time.sleep(0.1)
    with pytest.raises(SilentError, match="gone"):
        sampled.joules()
    sampled.close()
    sampled.close()
