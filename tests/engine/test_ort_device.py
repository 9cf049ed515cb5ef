"""ONNX Runtime on a GPU: whether it is really there, on whose stream it works, who holds what."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.engine import ort
from segformer_deploy.engine.backend import EngineOptions, engine_from_onnx
from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.engine.ort_device import OrtDeviceEngine
from segformer_deploy.engine.package import load_engine
from segformer_deploy.engine.session import DeviceSession, Engine
from segformer_deploy.errors import BackendError, OnnxFileError, RunError
from tests.engine.fake_ort import CPU, CUDA, TENSORRT, FakeOrt, expected, install
from tests.engine.trt.graphs import graph_bytes
from tests.engine.trt.world import MisuseError
from tests.little import little_spec, write_little
from tests.model.tiny import random_frames

CUDA_OPTIONS = {
    "device_id": "0",
    "do_copy_in_default_stream": "1",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
    "arena_extend_strategy": "kNextPowerOfTwo",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrt]:
    for name in ("fp32", "fp16"):
        graph_bytes(name)  # made with the installed onnxruntime, once
    fake = install(monkeypatch)
    yield fake
    assert fake.faults == []
    assert all(driver.closed for driver in fake.world.drivers)


class Gpu:
    """An engine, with a driver and a stream of the caller's."""

    def __init__(self, fake: FakeOrt, path: Path, schedule: Any = "late") -> None:
        fake.world.schedule = schedule
        self.fake, self.driver = fake, fake.world.open_driver()
        self.engine = OrtDeviceEngine(path, OrtOptions("cuda", 1), fake.world.open_driver)
        self.stream = self.driver.open_stream()

    def given(self, image: Any) -> dict[str, Any]:
        """Device memory for a run, with `image` on its way in."""
        (output,) = self.engine.outputs
        shape = self.engine.output_shapes({"image": image.shape})["logits"]
        size = int(np.prod(shape)) * np.dtype(output.dtype).itemsize
        memory = {
            "image": self.driver.allocate(image.nbytes, "a test"),
            "logits": self.driver.allocate(size, "a test"),
        }
        self.driver.copy_in(memory["image"].address, image, self.stream)
        return memory

    def answer(self, memory: dict[str, Any], image: Any, stream: Any = None) -> Any:
        (output,) = self.engine.outputs
        shape = self.engine.output_shapes({"image": image.shape})["logits"]
        back = np.empty(shape, output.dtype)
        self.driver.copy_out(back, memory["logits"].address, stream or self.stream)
        self.driver.synchronise(stream or self.stream)
        return back

    def close(self) -> None:
        self.engine.close()
        self.driver.close()


def addresses(memory: dict[str, Any]) -> dict[str, int]:
    return {name: one.address for name, one in memory.items()}


def graph_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(graph_bytes(name))
    return path


# What is asked for ----------------------------------------------------------------------------


def test_the_cuda_provider_is_asked_for_in_full(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    engine = OrtDeviceEngine(path, OrtOptions("cuda"))
    assert engine.name == f"onnxruntime 1.22.0 ({CUDA})"
    assert isinstance(engine, Engine)
    session = engine.session()
    assert isinstance(session, DeviceSession)
    assert not engine.graphs
    assert not session.capturable(FakeDriver().open_stream())
    OrtDeviceEngine(path, OrtOptions("cuda", arena=False))
    small = CUDA_OPTIONS | {"arena_extend_strategy": "kSameAsRequested"}
    assert fake.made == [{CUDA: CUDA_OPTIONS}, {CUDA: small}]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_is_told_the_precision_and_has_cuda_behind_it(
    fake: FakeOrt, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write_little(tmp_path / "m.onnx", little_spec(precision=precision))
    engine = OrtDeviceEngine(path, OrtOptions("tensorrt"))
    assert engine.name == f"onnxruntime 1.22.0 ({TENSORRT})"
    (made,) = fake.made
    assert list(made) == [TENSORRT, CUDA]
    assert made[CUDA] == CUDA_OPTIONS
    cache = str(tmp_path / "segdeploy" / "onnxruntime-tensorrt")
    assert made[TENSORRT] == {
        "device_id": "0",
        "trt_fp16_enable": str(precision != "fp32"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_path": cache,
    }


# Whether it is there --------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_dropped_without_a_word_is_refused(
    fake: FakeOrt, tmp_path: Path, provider: str
) -> None:
    path = write_little(tmp_path / "m.onnx")
    fake.dropped.add({"cuda": CUDA, "tensorrt": TENSORRT}[provider])
    with pytest.raises(BackendError, match="could not be started; onnxruntime chose") as caught:
        engine_from_onnx(path, EngineOptions("onnxruntime", provider))
    assert caught.value.expected == f"{TENSORRT if provider == 'tensorrt' else CUDA}, as asked"
    assert "--provider cpu" in caught.value.next_step
    del caught
    assert fake.streams == []


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", "newer"),
        ("CUDA failure 46: CUDA-capable device(s) is/are busy or unavailable ; GPU=0", "compute"),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=x", "close what else uses the GPU"),
        ("CUDA failure 100: no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        ("CUDA failure 803: system has unsupported display driver", "reboot"),
        ('Unknown provider option: "use_tf32".', "--upgrade"),
        ("libcudnn.so.9: cannot open shared object file", "segdeploy doctor"),
    ],
)
def test_a_provider_that_refuses_is_quoted_with_what_to_do(
    fake: FakeOrt, tmp_path: Path, said: str, step: str
) -> None:
    fake.refuses[CUDA] = said
    with pytest.raises(BackendError) as caught:
        OrtDeviceEngine(write_little(tmp_path / "m.onnx"), OrtOptions("cuda"))
    assert caught.value.found == f"{CUDA} of onnxruntime 1.22.0 does not start: {said}"
    assert caught.value.expected == f"{CUDA}, as asked"
    assert step in caught.value.next_step
    assert caught.value.next_step.endswith("; or run with --provider cpu")


def test_a_broken_file_is_no_fault_of_the_provider(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OnnxFileError, match="does not load"):
        OrtDeviceEngine(path, OrtOptions("cuda"))


def test_a_release_that_ignores_the_stream_is_refused(fake: FakeOrt, tmp_path: Path) -> None:
    gpu = Gpu(fake, write_little(tmp_path / "m.onnx"))
    fake.knows_streams = False
    image = random_frames(1, 64, 96)
    session = gpu.engine.session()
    memory = gpu.given(image)
    with pytest.raises(BackendError, match="on our CUDA stream") as caught:
        session.enqueue(gpu.stream, addresses(memory), image.shape)
    assert "1.18" in caught.value.expected
    del caught
    assert fake.streams == []
    # What does not need the stream still works.
    answer = session.run({"image": image})["logits"]
    np.testing.assert_array_equal(answer, reference_of(tmp_path / "m.onnx", image))
    session.close()
    gpu.close()


def reference_of(path: Path, image: Any) -> Any:
    return expected(path.read_bytes(), image)


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_auto_takes_cuda_where_it_starts_and_says_why_not(
    fake: FakeOrt, tmp_path: Path, backend: str
) -> None:
    path = write_little(tmp_path / "m.onnx")
    options = EngineOptions(backend, "auto")
    chosen = engine_from_onnx(path, options)
    assert isinstance(chosen.engine, OrtDeviceEngine)
    assert chosen.note is None
    fake.dropped.add(CUDA)
    chosen = load_engine(path, options)
    assert chosen.engine.name == f"onnxruntime 1.22.0 ({CPU})"
    assert not hasattr(chosen.engine, "open_driver")
    assert str(chosen.note).startswith(
        f"the CPU runs the network: {CUDA} could not be started; onnxruntime chose {CPU}"
    )
    # A name is no wish: it is that provider, or its error.
    with pytest.raises(BackendError):
        engine_from_onnx(path, EngineOptions(backend, "cuda"))


def test_the_cpu_is_asked_for_by_name_and_given_back(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    engine = OrtEngine(path)
    assert (engine.name, fake.made) == (f"onnxruntime 1.22.0 ({CPU})", [{CPU: {}}])
    session, image = engine.session(), random_frames(1, 64, 96)
    engine.close()
    answer = session.run({"image": image})["logits"]
    np.testing.assert_array_equal(answer, reference_of(path, image))
    session.close()
    assert fake.streams == [], "a closed session holds no weights"


# Runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["late", "early", 0, 1, 2])
@pytest.mark.parametrize("graph", ["fp32", "fp16"])
def test_runs_on_device_memory(fake: FakeOrt, tmp_path: Path, graph: str, schedule: Any) -> None:
    gpu = Gpu(fake, graph_file(tmp_path, graph), schedule)
    session = gpu.engine.session()
    for seed, (batch, height, width) in enumerate([(1, 96, 128), (2, 70, 90), (1, 96, 128)]):
        image = random_frames(batch, height, width, seed)
        memory = gpu.given(image)
        session.enqueue(gpu.stream, addresses(memory), image.shape)
        session.enqueue(gpu.stream, addresses(memory), image.shape)
        np.testing.assert_array_equal(
            gpu.answer(memory, image), expected(graph_bytes(graph), image)
        )
    session.close()
    gpu.close()


def test_nothing_waits_and_the_stream_alone_orders(fake: FakeOrt, tmp_path: Path) -> None:
    gpu = Gpu(fake, write_little(tmp_path / "m.onnx"))
    session = gpu.engine.session()
    image = random_frames(1, 64, 96)
    memory = gpu.given(image)
    session.enqueue(gpu.stream, addresses(memory), image.shape)
    logits = memory["logits"]
    assert (gpu.driver.view(logits.address, logits.size) == 0xA5).all()
    np.testing.assert_array_equal(
        gpu.answer(memory, image), reference_of(tmp_path / "m.onnx", image)
    )
    session.close()
    gpu.close()


def test_a_capture_is_never_tried(fake: FakeOrt, tmp_path: Path) -> None:
    """The fake would refuse it: what `graphs` says must be believed by those above."""
    gpu = Gpu(fake, write_little(tmp_path / "m.onnx"))
    session = gpu.engine.session()
    image = random_frames(1, 64, 96)
    memory = gpu.given(image)
    session.enqueue(gpu.stream, addresses(memory), image.shape)
    with pytest.raises(RunError, match="inside a capture"):
        gpu.driver.capture(
            gpu.stream, lambda: session.enqueue(gpu.stream, addresses(memory), image.shape)
        )
    session.close()
    gpu.close()


def test_host_arrays_run_without_a_driver(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    engine = OrtDeviceEngine(path, OrtOptions("cuda"), fake.world.open_driver)
    one, two = engine.session(), engine.session()
    for session in (one, two, one):
        image = random_frames(2, 64, 96, seed=3)
        answer = session.run({"image": image})["logits"]
        np.testing.assert_array_equal(answer, reference_of(path, image))
    assert (fake.world.drivers, fake.streams) == ([], [None])
    for closed in (one, two, engine, one):
        closed.close()
    assert fake.streams == []


# Who holds what -------------------------------------------------------------------------------


def test_one_session_per_stream_shared_and_given_back(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    gpu = Gpu(fake, path)
    other = gpu.driver.open_stream()
    image = random_frames(1, 64, 96)
    memory = gpu.given(image)
    gpu.driver.synchronise(gpu.stream)
    assert fake.streams == [None], "the one that showed that the provider starts"
    sessions = [gpu.engine.session() for _ in range(3)]
    for session, stream in zip(sessions, (gpu.stream, gpu.stream, other), strict=True):
        session.enqueue(stream, addresses(memory), image.shape)
        np.testing.assert_array_equal(gpu.answer(memory, image, stream), reference_of(path, image))
    assert fake.streams == sorted([gpu.stream.handle, other.handle])
    sessions[0].close()
    assert fake.streams == sorted([gpu.stream.handle, other.handle])
    sessions[2].close()
    assert fake.streams == [gpu.stream.handle]
    # A session that moves to another stream gives the first one back.
    sessions[1].enqueue(other, addresses(memory), image.shape)
    assert fake.streams == [other.handle]
    gpu.engine.close()
    np.testing.assert_array_equal(gpu.answer(memory, image, other), reference_of(path, image))
    sessions[1].close()
    assert fake.streams == []
    gpu.close()


def test_closed_is_closed_and_twice_is_safe(fake: FakeOrt, tmp_path: Path) -> None:
    gpu = Gpu(fake, write_little(tmp_path / "m.onnx"))
    session = gpu.engine.session()
    image = random_frames(1, 64, 96)
    memory = gpu.given(image)
    session.enqueue(gpu.stream, addresses(memory), image.shape)
    for _ in range(2):
        session.close()
        gpu.engine.close()
    with pytest.raises(RunError, match="a closed session"):
        session.enqueue(gpu.stream, addresses(memory), image.shape)
    with pytest.raises(RunError, match="a closed session"):
        session.run({"image": image})
    with pytest.raises(RunError, match="a closed engine"):
        gpu.engine.session()
    gpu.close()


def test_a_run_that_fails_is_named_and_the_next_one_works(fake: FakeOrt, tmp_path: Path) -> None:
    path = write_little(tmp_path / "m.onnx")
    gpu = Gpu(fake, path)
    session = gpu.engine.session()
    image = random_frames(1, 64, 96)
    memory = gpu.given(image)
    with pytest.raises(RunError, match="without a buffer for 'logits'"):
        session.enqueue(gpu.stream, {"image": memory["image"].address}, image.shape)
    fake.fails = "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"
    with pytest.raises(RunError, match="an input of 1x64x96x3: CUBLAS failure 3"):
        session.enqueue(gpu.stream, addresses(memory), image.shape)
    session.enqueue(gpu.stream, addresses(memory), image.shape)
    np.testing.assert_array_equal(gpu.answer(memory, image), reference_of(path, image))
    session.close()
    gpu.close()


def test_the_fake_sees_a_session_that_outlives_its_stream(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = install(monkeypatch)
    gpu = Gpu(fake, write_little(tmp_path / "m.onnx"))
    session = gpu.engine.session()
    image = random_frames(1, 64, 96)
    session.enqueue(gpu.stream, addresses(gpu.given(image)), image.shape)
    gpu.driver.close()
    session.close()
    gc.collect()
    assert fake.faults == ["a session outlived its stream"]
    with pytest.raises(MisuseError):
        fake.world.view(0x10, 4)


def test_the_tensorrt_caches_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider makes no parents of it, and does not start without."""
    monkeypatch.setattr(ort, "user_cache", lambda: tmp_path / "cache" / "segdeploy")
    cache = ort._tensorrt_cache()
    assert cache is not None
    assert cache.is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(ort, "user_cache", lambda: tmp_path / "file")
    assert ort._tensorrt_cache() is None
