"""The processor: name, cores, and what every core can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.host import cpu
from segformer_deploy.host.cpu import cpu_facts
from tests.host import trees


def test_an_orin_nano_has_its_cores_name(tmp_path: Path) -> None:
    facts = cpu_facts(trees.orin_nano(tmp_path))
    assert facts.model == "Cortex-A78AE"
    assert facts.cores == 6
    assert facts.features == ("neon", "fp16", "dotprod")
    assert facts.unknown == {}


def test_a_laptops_cores_share_what_is_said(tmp_path: Path) -> None:
    facts = cpu_facts(trees.laptop(tmp_path))
    assert facts.model == "Intel(R) Core(TM) i7"
    assert facts.features == ("avx2", "fma", "avx_vnni")


def test_two_kinds_of_cores(tmp_path: Path) -> None:
    facts = cpu_facts(trees.big_little(tmp_path))
    assert facts.model == "4x Cortex-A55 + 2x Cortex-A76"
    assert facts.features == ("neon",)
    assert facts.cores == 6


def test_an_unknown_arm_core_gives_its_numbers(tmp_path: Path) -> None:
    text = "processor : 0\nFeatures : neon\nCPU implementer : 0x61\nCPU part : 0x022\n"
    trees.write(tmp_path, {"proc/cpuinfo": text})
    assert cpu_facts(tmp_path).model == "Arm, implementer 0x61, part 0x022"


@pytest.mark.parametrize("text", [None, "", "nothing of the kind\n"])
def test_silence_has_its_reason(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        trees.write(tmp_path, {"proc/cpuinfo": text})
    facts = cpu_facts(tmp_path)
    assert (facts.model, facts.cores, facts.features) == (None, None, None)
    assert set(facts.unknown) == {"model", "cores", "features"}
    assert all("cpuinfo" in why for why in facts.unknown.values())
    assert facts.usable_cores >= 1


def test_usable_cores_are_those_of_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cpu_facts(trees.orin_nano(tmp_path)).usable_cores == 3


@given(st.lists(st.sets(st.sampled_from(["avx2", "fma", "avx512f", "sse2"])), min_size=1))
def test_a_feature_counts_where_all_cores_have_it(cores: list[set[str]]) -> None:
    processors = [{"flags": " ".join(["fpu", *sorted(flags)])} for flags in cores]
    expected = set.intersection(*cores) - {"sse2"}
    assert set(cpu._features(processors)) == expected
