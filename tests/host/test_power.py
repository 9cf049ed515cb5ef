"""What held a device back: counts, clocks, cooling, firmware; machines that tell nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from segformer_deploy.host.facts import SilentError
from segformer_deploy.host.power import PowerWatch, power_mode, power_state, throttling
from tests.host import trees

_POLICY = "sys/devices/system/cpu/cpufreq/policy0"
_CPU = "sys/devices/system/cpu"
_THERMAL = "sys/class/thermal"
_PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def signs(root: Path, before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    first = power_state(trees.write(root, before))
    return throttling(first, power_state(trees.write(root, after)))


def test_the_kernels_counts(tmp_path: Path) -> None:
    one, two = (f"{_CPU}/cpu{n}/thermal_throttle/core_throttle_count" for n in (0, 1))
    found = signs(tmp_path, {one: "3", two: "4"}, {one: "5", two: "4"})
    assert found == ("the kernel lowered the clock for heat 2 times",)
    assert signs(tmp_path, {}, {}) == ()


def test_a_bound_that_was_lowered(tmp_path: Path) -> None:
    file = f"{_POLICY}/scaling_max_freq"
    [found] = signs(tmp_path, {file: "1728000"}, {file: "1190400"})
    assert found == "policy0: its highest clock was lowered from 1728 to 1190 MHz"


@pytest.mark.parametrize(
    ("governor", "driver", "current", "said"),
    [
        ("performance", "cpufreq-dt", "1000000", "runs at 1000 of 2000 MHz"),
        ("performance", "cpufreq-dt", "1900000", None),
        ("performance", "intel_pstate", "1000000", None),
        ("schedutil", "cpufreq-dt", "1000000", None),
        ("powersave", "cpufreq-dt", "1000000", "held low"),
    ],
)
def test_a_clock_below_what_was_asked(
    tmp_path: Path, governor: str, driver: str, current: str, said: str | None
) -> None:
    files = {
        f"{_POLICY}/scaling_governor": governor,
        f"{_POLICY}/scaling_driver": driver,
        f"{_POLICY}/scaling_cur_freq": current,
        f"{_POLICY}/scaling_min_freq": "500000",
        f"{_POLICY}/scaling_max_freq": "2000000",
    }
    found = signs(tmp_path, files, {})
    assert bool(found) is (said is not None)
    assert said is None or said in found[0]


def test_cooling_devices_at_work_and_those_that_cost_nothing(tmp_path: Path) -> None:
    files = {}
    for number, (kind, state) in enumerate(
        (
            ("pwm-fan", 3),
            ("thermal-cpufreq-0", 2),
            ("thermal-devfreq-0", 0),
            ("intel_powerclamp", 1),
        )
    ):
        files[f"{_THERMAL}/cooling_device{number}/type"] = kind
        files[f"{_THERMAL}/cooling_device{number}/cur_state"] = str(state)
    [found] = signs(tmp_path, {}, files)
    assert found == "thermal-cpufreq-0 (cooling_device1) holds the device back (state 2)"


def test_the_hottest_zone(tmp_path: Path) -> None:
    files = {
        f"{_THERMAL}/thermal_zone0/type": "cpu-thermal",
        f"{_THERMAL}/thermal_zone0/temp": "48500",
        f"{_THERMAL}/thermal_zone1/type": "gpu-thermal",
        f"{_THERMAL}/thermal_zone1/temp": "97000",
        f"{_THERMAL}/thermal_zone2/type": "cv0-thermal",  # a part that is off has no answer
    }
    state = power_state(trees.write(tmp_path, files))
    assert (state.hottest, state.hottest_celsius) == ("gpu-thermal", 97.0)
    assert throttling(state, state) == ("gpu-thermal is at 97 degrees Celsius",)


def test_the_raspberry_pis_firmware(tmp_path: Path) -> None:
    # 0x5: under-voltage and throttled now; bits from 16 up are of the past.
    [low, slow] = signs(tmp_path, {_PI: "0"}, {_PI: "50005"})
    assert "under-voltage" in low
    assert "throttled" in slow
    assert signs(tmp_path, {_PI: "0"}, {_PI: "50000"}) == ()


def test_nvpmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.program(tmp_path, "nvpmodel", "echo 'NV Power Mode: 25W'; echo 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() == "25W (1)"
    trees.program(tmp_path, "nvpmodel", "echo hello")
    with pytest.raises(SilentError, match="otherwise than expected"):
        power_mode()


def test_an_orin_is_watched(tmp_path: Path) -> None:
    report = PowerWatch(trees.orin_nano(tmp_path)).ended()
    assert report.governors == ("schedutil",)
    assert (report.watched, report.throttling) == (True, ())
    assert "nvpmodel is not installed" in report.unknown["power_mode"]


def test_a_silent_machine_has_its_reasons(tmp_path: Path) -> None:
    data = PowerWatch(tmp_path).ended().to_dict()
    assert (data["watched"], data["throttling"], data["governors"]) == (False, [], [])
    assert "neither clocks nor temperatures" in data["unknown"]["throttling"]
    assert set(data["before"]["unknown"]) == {"temperature", "throttle_counts"}
