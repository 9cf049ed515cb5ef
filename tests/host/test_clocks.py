"""Clocks in MHz, whatever unit the kernel counts in, and when one is held low."""

from __future__ import annotations

from pathlib import Path

import pytest

from segformer_deploy.host.clocks import Clock, clock_facts
from tests.host import trees


def test_an_orin_nanos_clocks(tmp_path: Path) -> None:
    clocks = clock_facts(trees.orin_nano(tmp_path))
    assert [clock.name for clock in clocks.cpu] == ["policy0", "policy4"]
    first = clocks.cpu[0]
    assert (first.current_mhz, first.min_mhz, first.max_mhz) == (729.6, 729.6, 1728.0)
    assert (first.governor, first.driver) == ("schedutil", "tegra194-cpufreq")
    [gpu] = clocks.gpu  # the video image compositor beside it is no GPU
    assert (gpu.name, gpu.current_mhz, gpu.max_mhz) == ("17000000.gpu", 306.0, 1020.0)
    assert clocks.unknown == {}


def test_policies_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        trees.write(
            tmp_path, {f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor": "x"}
        )
    names = [clock.name for clock in clock_facts(tmp_path).cpu]
    assert names == ["policy0", "policy2", "policy10"]


def test_what_a_policy_does_not_tell(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpufreq/policy0"
    trees.write(tmp_path, {f"{folder}/scaling_cur_freq": "<unknown>\n"})
    [clock] = clock_facts(tmp_path).cpu
    assert clock.current_mhz is None
    assert "'<unknown>', not a number" in clock.unknown["current_mhz"]
    assert "is not there" in clock.unknown["governor"]


def test_no_cpufreq_has_its_reason(tmp_path: Path) -> None:
    clocks = clock_facts(tmp_path)
    assert (clocks.cpu, clocks.gpu) == ((), ())
    assert set(clocks.unknown) == {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("governor", "driver", "preference", "held"),
    [
        ("powersave", "acpi-cpufreq", None, True),
        ("powersave", None, None, True),
        ("powersave", "intel_pstate", "balance_performance", False),
        ("powersave", "intel_pstate", None, False),
        ("powersave", "intel_pstate", "power", True),
        ("powersave", "amd-pstate-epp", "power", True),
        ("performance", "intel_pstate", "power", False),
        ("schedutil", "tegra194-cpufreq", None, False),
        (None, None, None, False),
    ],
)
def test_when_a_clock_is_held_low(
    governor: str | None, driver: str | None, preference: str | None, held: bool
) -> None:
    assert Clock("policy0", 1, 1, 2, governor, driver, preference).held_low is held


def test_a_laptops_usual_powersave_is_not_low(tmp_path: Path) -> None:
    [clock] = clock_facts(trees.laptop(tmp_path)).cpu
    assert (clock.governor, clock.preference) == ("powersave", "balance_performance")
    assert not clock.held_low
