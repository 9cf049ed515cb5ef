"""Lines of tegrastats as each board prints them; sums done by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.host.facts import SilentError
from segformer_deploy.host.tegrastats import watts_from_tegrastats

NANO = (
    "RAM 2401/3964MB (lfb 12x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [9%@1479,off] EMC_FREQ 1%@1600 GR3D_FREQ 0%@76 APE 25 PLL@40C thermal@38.5C "
    "POM_5V_IN 2532/2500 POM_5V_GPU 40/40 POM_5V_CPU 200/200"
)
TX2 = (
    "RAM 1004/7852MB (lfb 7x2MB) CPU [0%@350,4%@345] EMC_FREQ 17%@40 GR3D_FREQ 0%@114 APE 150 "
    "MTS fg 0% bg 0% PMIC@100C VDD_SYS_GPU 153/153 VDD_SYS_SOC 383/383 VDD_4V0_WIFI 0/0 "
    "VDD_IN 1876/1876 VDD_SYS_CPU 229/229 VDD_SYS_DDR 134/134"
)
HEAD = (
    "RAM 1545/31919MB (lfb 7400x4MB) SWAP 2/15959MB (cached 1MB) CPU [0%@1190,1%@1190] "
    "EMC_FREQ 1%@408 GR3D_FREQ 12%@318 AO@38C GPU@39.5C CPU@40C thermal@38.8C "
)
XAVIER = f"{HEAD}GPU 1230/1230 CPU 3100/3100 SOC 1550/1550 CV 0/0 VDDRQ 310/310 SYS5V 1889/1889"
ORIN_NANO = f"{HEAD}VDD_IN 4321mW/4300mW VDD_CPU_GPU_CV 512mW/510mW VDD_SOC 1200mW/1200mW"
AGX_ORIN = (
    f"{HEAD}VDD_GPU_SOC 3000mW/3000mW VDD_CPU_CV 1000mW/1000mW VIN_SYS_5V0 2000mW/2000mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 500mW/500mW NC 0mW/0mW"
)
THOR = (
    "VDD_GPU -392mW/0mW VDD_CPU_SOC_MSS 6510mW/6510mW VIN_SYS_5V0 6520mW/6520mW VIN 23000mW/23000mW"
)


@pytest.mark.parametrize(
    ("line", "watts", "covers"),
    [
        (NANO, 2.532, "the module (POM_5V_IN)"),
        (TX2, 1.876, "the module (VDD_IN)"),
        (XAVIER, 8.079, "the sum of the rails CPU, CV, GPU, SOC, SYS5V, VDDRQ"),
        (XAVIER.replace(" CV 0/0", " CV 0mW/0mW"), 8.079, None),
        (ORIN_NANO, 4.321, "the module (VDD_IN)"),
        (AGX_ORIN, 6.5, "the sum of the rails VDDQ_VDD2_1V8AO, VDD_CPU_CV, VDD_GPU_SOC, "
         "VIN_SYS_5V0"),
        (THOR, 23.0, "the board (VIN)"),
    ],
)  # fmt: skip
def test_the_rails_of_each_board(line: str, watts: float, covers: str | None) -> None:
    found, what = watts_from_tegrastats(line)
    assert found == pytest.approx(watts)
    assert covers in (None, what)


@pytest.mark.parametrize("line", ["", "RAM 2431/7620MB", HEAD, "GPU 245MHz/245MHz", "NC 0mW/0mW"])
def test_no_power_is_said(line: str) -> None:
    with pytest.raises(SilentError, match="prints no power"):
        watts_from_tegrastats(line)


def test_a_rail_that_is_not_known_refuses_the_sum() -> None:
    with pytest.raises(SilentError, match=r"not known \(VDD_NEW\)"):
        watts_from_tegrastats(f"{XAVIER} VDD_NEW 100/100")
    # Beside the rail that feeds all of them it does not matter.
    assert watts_from_tegrastats(f"{ORIN_NANO} VDD_NEW 100mW/100mW")[0] == 4.321


@given(st.dictionaries(st.sampled_from(["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]),
                       st.integers(0, 99_999), min_size=1), st.booleans())  # fmt: skip
def test_every_rail_counts_once(rails: dict[str, int], unit: bool) -> None:
    mw = "mW" if unit else ""
    line = HEAD + " ".join(f"{name} {now}{mw}/7{mw}" for name, now in rails.items())
    assert watts_from_tegrastats(line)[0] == pytest.approx(sum(rails.values()) / 1e3)
