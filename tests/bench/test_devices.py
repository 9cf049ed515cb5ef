"""The table of devices: whole, consistent with itself, and found by any usual name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.devices import GROUP_NAMES, GROUPS, all_devices, device_named
from segformer_deploy.errors import InputError

NAMES = [
    (name, device.slug)
    for device in all_devices()
    for name in (device.slug, device.name, *device.aliases)
]
CUDA_CORES = {
    ("jetson-nano", 128), ("xavier-nx", 384), ("orin-nano-8gb", 1024), ("agx-orin-64gb", 2048),
    ("t4", 2560), ("rtx-4090", 16384), ("l4", 7424), ("a100", 6912),
}  # fmt: skip
"""NVIDIA's data sheets."""


def test_29_devices_with_short_names() -> None:
    slugs = [device.slug for device in all_devices()]
    assert len(slugs) == len(set(slugs)) == 29
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) for slug in slugs)
    assert {device.group for device in all_devices()} == set(GROUPS) == set(GROUP_NAMES)
    assert {device.board for device in all_devices()} <= set(slugs)


def test_no_name_means_two_devices() -> None:
    plain = [(re.sub(r"[\s_-]+", "-", name.lower()), slug) for name, slug in NAMES]
    assert len({name for name, _ in plain}) == len(set(plain))


@pytest.mark.parametrize(("slug", "cores"), sorted(CUDA_CORES))
def test_fp32_peaks_are_two_per_core_and_clock(slug: str, cores: int) -> None:
    device = device_named(slug)
    assert device.fp32_tflops == pytest.approx(2 * cores * device.clock_mhz / 1e6, rel=0.02)


def test_peaks_grow_as_the_type_shrinks() -> None:
    for device in all_devices():
        peaks = (device.fp32_tflops, device.fp16_tflops, device.int8_tops)
        found = [peak for peak in peaks if peak is not None]
        assert found == sorted(found), device.slug
        assert min(*found, device.bandwidth_gbs, device.memory_gb, device.clock_mhz) > 0
        assert device.peak_source
        assert device.clock_source
        assert device.memory_bytes <= device.memory_gb * 2**30


@given(st.sampled_from(NAMES), st.sampled_from(["-", " ", "_", "  "]), st.booleans())
def test_any_spelling_finds_it(pair: tuple[str, str], blank: str, upper: bool) -> None:
    name, slug = pair
    name = name.replace("-", blank)
    assert device_named(f" {name.upper() if upper else name} ").slug == slug


def test_the_usual_names() -> None:
    assert device_named("Orin Nano").slug == "orin-nano-8gb"
    assert device_named("raspberry pi 5").slug == "rpi-5"
    assert device_named("Thor").slug == "jetson-t5000"
    assert device_named("xavier").slug == "agx-xavier"


@pytest.mark.parametrize(
    ("name", "near"), [("orin-nanoo", "orin-nano-8gb"), ("rpi5", "rpi-5"), ("orin", "agx-orin")]
)
def test_an_unknown_name_tells_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        device_named(name)
    assert f"'{name}'" in caught.value.found
    assert near in caught.value.expected
    assert caught.value.next_step == "segdeploy estimate --list"


@pytest.mark.parametrize("name", ["", "zzzzzz"])
def test_nothing_near(name: str) -> None:
    with pytest.raises(InputError, match=r"no device") as caught:
        device_named(name)
    assert "for example" in caught.value.expected


def test_what_a_device_runs_a_precision_as() -> None:
    assert device_named("rpi-5").runs_as("fp16") == "fp32"
    assert device_named("rpi-4").runs_as("int8") == "int8"
    assert device_named("jetson-nano").runs_as("int8") == "fp16"
    assert device_named("orin-nano").runs_as("int8") == "int8"
    assert device_named("t4").runs_as("fp16") == "fp16"


def test_figures_from_memory_are_known_as_such() -> None:
    assert device_named("rpi-zero-2w").recalled
    assert device_named("jetson-t5000").recalled  # "DERIVED/recall"
    assert not device_named("orin-nano-8gb").recalled


def test_devices_of_one_design_of_cores() -> None:
    by_core: dict[str, set[str]] = {}
    for device in all_devices():
        pattern = r"sm_\d{2,3}" if device.is_gpu else r"Cortex-A\d+|Gracemont"
        assert re.fullmatch(pattern, device.core), device.slug
        by_core.setdefault(device.core, set()).add(device.architecture)
    assert all(len(names) == 1 for names in by_core.values())
    assert device_named("rpi-3").core == device_named("pi-zero-2w").core
    assert len({device_named(name).core for name in ("orin-nano", "orin-nx", "agx-orin")}) == 1
    assert device_named("a100").core != device_named("rtx-3060").core
