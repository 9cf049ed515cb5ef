"""The GPU's whole way gives the CPU's answers bit for bit, whatever frame, network and batch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.runtime.device_kernels import DeviceKernels, KernelCode
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeFilter, ResizeRule
from segformer_deploy.video.overlay import Overlay
from tests.engine.trt.graphs import graph_bytes
from tests.engine.trt.machines import reference, sizes
from tests.runtime.gpu import Gpu, frames, network, spec_of

HUGE = sizes("64x64", "96x128", "1088x1920", 4)
TALL = [
    (19, False, "pillow-bicubic"),
    (150, True, "pillow-bilinear"),
    pytest.param(256, True, "opencv-bilinear", marks=pytest.mark.slow),
    pytest.param(257, False, "opencv-bilinear", marks=pytest.mark.slow),
]


def rule_of(name: str, filter: ResizeFilter) -> ResizeRule:
    if name == "none":
        return ResizeRule("none", None, filter=filter)
    if name == "short":
        return ResizeRule("short_side", None, 80, 200, filter)
    return ResizeRule.stretch_to(FrameSize.parse(name), filter)


def noisy(count: int, height: int, width: int, seed: int = 0) -> list[Any]:
    """Frames of blocks, with noise on them: many borders, and many pixels that are nearly alike."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 40, (count, height, width, 3))
    given = np.clip(np.stack(frames(count, height, width, seed)).astype(int) - 20 + noise, 0, 255)
    return list(given.astype(np.uint8))


def assert_same(
    gpu: Gpu, engine: TrtEngine, classes: int, rule: ResizeRule, given: list[Any], **options: Any
) -> None:
    """One by one, as a batch, with confidence, and as a stream with graphs: the CPU's bits."""
    spec = spec_of(classes, rule)
    with Segmenter(engine, spec=spec, device="cpu", **options) as cpu:
        expected = [cpu(frame, confidence=True) for frame in given]
    with Segmenter(engine, spec=spec, device="cuda", **options) as cuda:
        assert cuda.device == "cuda"
        for found, (wanted, sure) in zip(cuda(given, confidence=True), expected, strict=True):
            assert found[0].dtype == wanted.dtype == (np.uint8 if classes <= 256 else np.int32)
            np.testing.assert_array_equal(found[0], wanted)
            assert found[1].tobytes() == sure.tobytes()
        for frame, (wanted, _) in zip(given, expected, strict=True):
            np.testing.assert_array_equal(cuda(frame), wanted)
        streamed = [found for _, found in cuda.stream(given * 2)]
    for found, (wanted, _) in zip(streamed, expected * 2, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(expected[0][0])) > 1


# Each pair of values of two columns meets in some line.
PAIRS = [
    # classes, half, count, frame, rule, filter
    (19, False, 1, (97, 131), "64x96", "pillow-bilinear"),
    (19, True, 2, (64, 64), "none", "pillow-bicubic"),
    (19, False, 3, (180, 75), "short", "opencv-bilinear"),
    (19, True, 4, (33, 201), "96x128", "opencv-bilinear"),
    (150, False, 2, (180, 75), "96x128", "pillow-bicubic"),
    (150, True, 1, (33, 201), "64x96", "opencv-bilinear"),
    (150, False, 4, (64, 64), "short", "pillow-bilinear"),
    (150, True, 3, (97, 131), "none", "opencv-bilinear"),
    (256, False, 3, (33, 201), "64x96", "pillow-bicubic"),
    (256, True, 4, (97, 131), "short", "pillow-bicubic"),
    (256, False, 2, (97, 131), "none", "opencv-bilinear"),
    (256, True, 1, (180, 75), "96x128", "pillow-bilinear"),
    (300, True, 2, (64, 64), "64x96", "opencv-bilinear"),
    (300, False, 1, (97, 131), "short", "pillow-bilinear"),
    (300, True, 3, (180, 75), "64x96", "pillow-bilinear"),
    (300, False, 4, (96, 128), "96x128", "pillow-bicubic"),
    (2, False, 1, (129, 66), "none", "pillow-bilinear"),
]


@pytest.mark.parametrize(("classes", "half", "count", "size", "rule", "filter"), PAIRS)
def test_the_cpus_bits(
    host_gpu: Gpu,
    classes: int,
    half: bool,
    count: int,
    size: tuple[int, int],
    rule: str,
    filter: ResizeFilter,
) -> None:
    engine = host_gpu.engine(network(classes, half=half))
    assert engine.outputs[0].dtype == ("float16" if half else "float32")
    assert_same(host_gpu, engine, classes, rule_of(rule, filter), noisy(count, *size))
    engine.close()


@pytest.mark.parametrize("graph", ["fp32", "fp16"])
@pytest.mark.parametrize("schedule", ["early", 5])
def test_a_real_network_in_another_order(host_gpu: Gpu, graph: str, schedule: Any) -> None:
    host_gpu.schedule = schedule
    engine = host_gpu.engine(graph)
    assert_same(host_gpu, engine, 7, rule_of("short", "pillow-bilinear"), noisy(2, 97, 131))
    engine.close()


def test_a_list_of_frames_of_different_sizes(host_gpu: Gpu) -> None:
    engine = host_gpu.engine(network(19))
    given = [noisy(1, *size)[0] for size in ((97, 131), (50, 60), (96, 128), (201, 333))]
    assert_same(host_gpu, engine, 19, rule_of("96x128", "pillow-bilinear"), given)
    engine.close()


def test_rgb_frames_and_frames_that_are_views(host_gpu: Gpu) -> None:
    engine = host_gpu.engine(network(19))
    wide = noisy(1, 200, 300)[0]
    given = [wide[3:180:2, 250:20:-2], np.asfortranarray(wide), wide.transpose(1, 0, 2)]
    for one in given:
        rule = rule_of("64x96", "pillow-bilinear")
        assert_same(host_gpu, engine, 19, rule, [one], pixel_format="rgb")
    engine.close()


@pytest.mark.parametrize(("classes", "half", "filter"), TALL)
def test_a_frame_of_1080_lines(
    host_gpu: Gpu, classes: int, half: bool, filter: ResizeFilter
) -> None:
    engine = host_gpu.engine(network(classes, half=half), HUGE)
    spec = spec_of(classes, rule_of("256x512", filter))
    given = noisy(1, 1080, 1920)[0]
    with Segmenter(engine, spec=spec, device="cpu") as cpu:
        expected, sure = cpu(given, confidence=True)
    with Segmenter(engine, spec=spec, device="cuda") as cuda:
        found, probability = cuda(given, confidence=True)
    engine.close()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(probability, sure)


def nv12(seed: int, height: int, width: int) -> Any:
    """Planes of every kind of value, also those that no camera gives."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height * 3 // 2 // 6 + 1, width // 6 + 1)).astype(np.uint8)
    planes = np.kron(coarse, np.ones((6, 6), np.uint8))[: height * 3 // 2, :width]
    planes[height:, ::2] = rng.integers(0, 256, (height // 2, width // 2))
    return np.ascontiguousarray(planes)


@pytest.mark.parametrize("filter", ["pillow-bilinear", "pillow-bicubic", "opencv-bilinear"])
@pytest.mark.parametrize("rule", ["64x96", "none", "short"])
def test_nv12_is_opencvs_conversion(host_gpu: Gpu, rule: str, filter: ResizeFilter) -> None:
    engine = host_gpu.engine(network(19))
    spec = spec_of(19, rule_of(rule, filter))
    given = [nv12(seed, 98, 132) for seed in range(3)]
    with Segmenter(engine, spec=spec, device="cpu", pixel_format="rgb") as cpu:
        rgb = [cv2.cvtColor(one, cv2.COLOR_YUV2RGB_NV12) for one in given]
        expected = cpu(rgb)
    with Segmenter(engine, spec=spec, device="cuda", pixel_format="nv12") as cuda:
        for found in (cuda(given), [cuda(one) for one in given]):
            np.testing.assert_array_equal(found, expected)
    engine.close()


def test_the_answer_in_float64(host_gpu: Gpu) -> None:
    """Pillow's own resize, the network, and all logits upsampled, where no tie is near."""
    graph = graph_bytes("fp32")
    engine = host_gpu.engine(graph)
    frame = noisy(1, 97, 131)[0]
    rule = rule_of("64x96", "pillow-bilinear")
    with Segmenter(engine, spec=spec_of(7, rule), device="cuda") as cuda:
        found, sure = cuda(frame, confidence=True)
    engine.close()
    small = Image.fromarray(frame[..., ::-1]).resize((96, 64), Image.Resampling.BILINEAR)
    logits = reference(graph).run(["logits"], {"image": np.asarray(small)[None]})[0][0]
    full = logits.astype(np.float64)
    for dimension, size in ((1, 97), (2, 131)):
        place = (np.arange(size) + 0.5) * full.shape[dimension] / size - 0.5
        place = np.clip(place, 0, full.shape[dimension] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, full.shape[dimension] - 1)
        part = (place - low).reshape([-1 if d == dimension else 1 for d in range(3)])
        full = full.take(low, dimension) * (1 - part) + full.take(high, dimension) * part
    second, first = np.sort(full, axis=0)[-2:]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    assert len(np.unique(found)) > 2
    np.testing.assert_array_equal(found[clear], full.argmax(0)[clear])
    chosen = np.exp(full - full.max(0))
    chosen = np.take_along_axis(chosen / chosen.sum(0), found[None].astype(int), 0)[0]
    np.testing.assert_allclose(sure, chosen, rtol=1e-4)


@pytest.mark.parametrize("classes", [19, 256, 300])
@pytest.mark.parametrize("opacity", [0.0, 0.5, 0.31, 1.0])
def test_an_overlay_is_the_cpus_within_one_level(
    host_gpu: Gpu, classes: int, opacity: float
) -> None:
    spec = spec_of(classes, rule_of("64x96", "pillow-bilinear"))
    frame = noisy(1, 61, 83)[0]
    kind = np.uint8 if classes <= 256 else np.int32
    class_map = np.random.default_rng(0).integers(0, classes, (61, 83)).astype(kind)
    driver = host_gpu.open_driver()
    code = KernelCode(driver)
    kernels = DeviceKernels(driver, code)
    stream = driver.open_stream()
    places = [driver.allocate(one.nbytes, "a test") for one in (frame, class_map, frame)]
    for place, one in zip(places, (frame, class_map), strict=False):
        driver.copy_in(place.address, one, stream)
    at = [place.address for place in places]
    kernels.overlay(at[0], at[1], spec.palette, FrameSize(61, 83), opacity, at[2], stream)
    found = np.empty_like(frame)
    driver.copy_out(found, at[2], stream)
    driver.synchronise(stream)
    driver.close()
    names = [str(n) for n in range(classes)]
    expected = Overlay(spec.palette, names, legend=False).draw(frame, class_map, opacity=opacity)
    assert np.abs(found.astype(int) - expected).max() <= 1
