"""The client: whatever way it speaks, it gives the server's class maps or one readable error."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError, InputError, MissingDependencyError, ServerError
from segformer_deploy.serve.address import parse_server
from segformer_deploy.serve.client import TritonSegmenter
from segformer_deploy.serve.fake import FakeTransport, config_of
from segformer_deploy.serve.shared_memory import SharedFrames, SharedMemoryError
from segformer_deploy.serve.transport import RefusedError as Refused
from segformer_deploy.serve.transport import Shared
from segformer_deploy.spec import default_class_names, default_palette
from tests.little import little_spec
from tests.serve.kserve import KServe, RefusedError, kserve

Map = np.ndarray[Any, Any]


def brightest(frame: Map) -> Map:
    """A class map that tells channels, places and frames apart."""
    return np.argmax(frame, 2).astype(np.uint8)


def noise(height: int = 48, width: int = 64, seed: int = 0) -> Map:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


CONFIGS = {"street": config_of(little_spec()), "street-network": {"max_batch_size": 8}}


@pytest.fixture
def server() -> Iterator[KServe]:
    with kserve(brightest, CONFIGS) as running:
        yield running


@pytest.fixture
def fake() -> FakeTransport:
    return FakeTransport(brightest, CONFIGS)


def ours() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("segdeploy-*")}


# Addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://gpu-box", "http://gpu-box:8000"),
        ("HTTP://gpu-box:9000/", "http://gpu-box:9000"),
        ("grpc://10.0.0.7", "grpc://10.0.0.7:8001"),
        ("https://proxy/triton/", "https://proxy:8000/triton"),
        ("grpcs://[fe80::1]:5", "grpcs://[fe80::1]:5"),
    ],
)
def test_an_address_is_read(text: str, shown: str) -> None:
    assert str(parse_server(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "gpu-box:8000",
        "",
        "ftp://gpu-box",
        "http://",
        "http://a:99999",
        "grpc://a/model",
        "http://[",
        "http://a?b=c",
    ],
)
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(InputError, match="the server's address") as caught:
        parse_server(text)
    assert "http://HOST" in caught.value.expected


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        parse_server("http://me:secret@gpu-box")
    assert "secret" not in str(caught.value)


# What it gives


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("pixel_format", ["bgr", "rgb"])
def test_class_maps_are_the_servers(fake: FakeTransport, shared: bool, pixel_format: Any) -> None:
    frame = noise()
    given = frame if pixel_format == "bgr" else frame[..., ::-1]
    with TritonSegmenter(fake, shared_memory=shared, pixel_format=pixel_format) as segment:
        assert segment.shares_memory is shared
        found = segment(given)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, brightest(frame))
    assert fake.calls[0].pixel_format == pixel_format


@given(
    st.lists(st.tuples(st.integers(32, 40), st.integers(32, 40)), max_size=12),
    st.booleans(),
    st.integers(1, 4),
)
def test_a_list_is_the_same_as_one_after_the_other(
    sizes: list[tuple[int, int]], shared: bool, most: int
) -> None:
    fake = FakeTransport(brightest, {"m": config_of(little_spec(), max_batch=most)})
    frames = [noise(h, w, seed) for seed, (h, w) in enumerate(sizes)]
    with TritonSegmenter(fake, shared_memory=shared) as segment:
        found = segment(frames)
    assert len(found) == len(frames)
    for one, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(one, brightest(frame))
    # Only what has one size travels together, and no more than the server takes.
    assert all(call.shape[0] <= most for call in fake.calls)
    assert sum(call.shape[0] for call in fake.calls) == len(frames)


@pytest.mark.parametrize("shared", [True, False])
def test_a_class_map_is_the_callers_to_keep(fake: FakeTransport, shared: bool) -> None:
    with TritonSegmenter(fake, shared_memory=shared) as segment:
        first = segment(noise(seed=1))
        kept = first.copy()
        segment(noise(seed=2))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # and to write into


def test_more_than_256_classes_are_int32(fake: FakeTransport) -> None:
    spec = little_spec(class_names=default_class_names(766), palette=default_palette(766))
    configs = {"wide": config_of(spec)}
    wide = FakeTransport(lambda frame: frame.astype(np.int32).sum(2, dtype=np.int32), configs)
    for shared in (True, False):
        with TritonSegmenter(wide, shared_memory=shared) as segment:
            found = segment(noise())
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, noise().astype(int).sum(2))


def test_png_is_exact_and_jpeg_is_not(fake: FakeTransport) -> None:
    frame = noise()
    for pixel_format in ("bgr", "rgb"):
        given = frame if pixel_format == "bgr" else frame[..., ::-1]
        with TritonSegmenter(fake, encoding="png", pixel_format=pixel_format) as segment:
            assert not segment.shares_memory
            assert not segment.lossy
            np.testing.assert_array_equal(segment(given), brightest(frame))
    with TritonSegmenter(fake, encoding="jpeg", quality=30) as segment:
        assert segment.lossy
        assert (segment(frame) != brightest(frame)).any()
    assert not any(call.parameters for call in fake.calls)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_over_http(server: KServe, encoding: Any) -> None:
    frames = [noise(40, 56, 1), noise(40, 56, 2), noise(64, 48, 3)]
    for shared in (True, False) if encoding == "raw" else (False,):
        with TritonSegmenter(server.url, shared_memory=shared, encoding=encoding) as segment:
            assert segment.spec == little_spec()
            assert segment.server == "triton 2.51.0"
            assert str(segment.model) == "street (fake, fp32)"
            view = noise(96, 80, 4)[::2, 3:70]  # not contiguous
            np.testing.assert_array_equal(segment(view), brightest(view))
            for found, frame in zip(segment(frames), frames, strict=True):
                np.testing.assert_array_equal(found, brightest(frame))
            found = segment(noise())
            found[:] = 0  # the caller's
    assert not server.regions


def test_a_path_before_tritons_own(server: KServe) -> None:
    server.base = "/models/triton"
    with TritonSegmenter(f"{server.url}/models/triton/") as segment:
        np.testing.assert_array_equal(segment(noise()), brightest(noise()))


def test_tls_where_there_is_none(server: KServe) -> None:
    with pytest.raises(ServerError, match="https://") as caught:
        TritonSegmenter(server.url.replace("http", "https"), timeout=5)
    assert "check the address" in caught.value.next_step


def test_eight_clients_at_once_get_their_own_answers(server: KServe) -> None:
    wrong: list[int] = []

    def one(number: int) -> None:
        with TritonSegmenter(server.url, shared_memory=bool(number % 2)) as segment:
            for seed in range(number * 100, number * 100 + 20):
                frame = noise(32 + number, 64, seed)
                if not np.array_equal(segment(frame), brightest(frame)):
                    wrong.append(seed)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(server.requests) == 8 * 20


# Shared memory


def test_a_server_elsewhere_gets_the_pixels_themselves(server: KServe) -> None:
    server.sees_memory = False
    with TritonSegmenter(server.url) as segment:
        assert not segment.shares_memory
        assert "Unable to open shared memory region" in str(segment.note)
        np.testing.assert_array_equal(segment(noise()), brightest(noise()))
    with pytest.raises(ServerError, match="no memory can be shared"):
        TritonSegmenter(server.url, shared_memory=True)
    assert ours() == set()


@pytest.mark.parametrize("most", [1 << 13, 40 * 1024])
def test_a_server_that_does_not_take_more_is_told_about(fake: FakeTransport, most: int) -> None:
    """One page at the beginning, and no more later: for the frames, or for their class maps."""
    fake.most_shared = most
    notes: list[str] = []
    with TritonSegmenter(fake, on_note=notes.append) as segment:
        assert segment.way == "shared memory"
        assert notes == []
        for seed in range(3):
            frame = noise(96, 128, seed)
            np.testing.assert_array_equal(segment(frame), brightest(frame))
        assert segment.way == "raw"
        assert notes == [segment.note]
    assert "not shared memory (the server: Unable to open" in notes[0]
    assert not any(isinstance(call.data, Shared) for call in fake.calls)
    assert fake.regions == {}
    with TritonSegmenter(fake, shared_memory=True) as segment:
        with pytest.raises(ServerError, match="no memory can be shared"):
            segment(noise(96, 128))


def test_nothing_stays_in_dev_shm_even_while_it_runs(fake: FakeTransport) -> None:
    with TritonSegmenter(fake, shared_memory=True) as segment:
        segment(noise())
        segment(noise(480, 640))
        assert ours() == set()
        assert len(fake.regions) == 2
    assert fake.regions == {}


def test_a_full_dev_shm_is_noticed_before_it_kills(tmp_path: Path, fake: FakeTransport) -> None:
    with pytest.raises(SharedMemoryError):
        SharedFrames(fake, tmp_path / "absent")
    frames = SharedFrames(fake)
    with pytest.raises(SharedMemoryError, match=r"/dev/shm"):
        frames.give([noise()], 1 << 50)
    assert ours() == set()


def test_an_unanswered_request_keeps_its_memory_to_itself(fake: FakeTransport) -> None:
    with TritonSegmenter(fake, shared_memory=True) as segment:
        segment(noise())
        before = set(fake.regions)
        fake.failure = ServerError("too slow")
        with pytest.raises(ServerError):
            segment(noise())
        fake.failure = None
        np.testing.assert_array_equal(segment(noise(seed=5)), brightest(noise(seed=5)))
        # The late answer goes where nobody reads any more.
        assert before < set(fake.regions)
        used = {call.answer.region for call in fake.calls[-1:] if call.answer}
        assert used.isdisjoint(before)


# What goes wrong


def test_wrong_arguments(fake: FakeTransport) -> None:
    for bad in (
        {"encoding": "webp"},
        {"encoding": "jpeg", "quality": 0},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"encoding": "png", "shared_memory": True},
    ):
        with pytest.raises(InputError):
            TritonSegmenter(fake, **bad)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="nv12"):
        TritonSegmenter(fake, pixel_format="nv12")  # type: ignore[arg-type]


def test_wrong_frames_do_not_travel(fake: FakeTransport) -> None:
    with TritonSegmenter(fake) as segment:
        for bad in (None, np.zeros((40, 40), np.uint8), np.zeros((40, 40, 4), np.uint8)):
            with pytest.raises(FrameError):
                segment(bad)  # type: ignore[call-overload]
        with pytest.raises(FrameError, match="float32"):
            segment(np.zeros((40, 40, 3), np.float32))  # type: ignore[arg-type]
        with pytest.raises(FrameError, match="16x16"):
            segment([noise(), noise(16, 16)])
        assert segment([]) == []
    assert fake.calls == []


def test_a_wrong_model_names_the_right_one(server: KServe) -> None:
    with pytest.raises(ServerError, match="no model 'road' that is ready") as caught:
        TritonSegmenter(server.url, "road")
    assert "street" in caught.value.next_step
    assert server.url in caught.value.found
    with pytest.raises(ServerError, match="was not packaged by segdeploy"):
        TritonSegmenter(server.url, "street-network")


def test_which_model_is_asked_where_there_are_several(server: KServe) -> None:
    server.configs = {**CONFIGS, "second": config_of(little_spec())}
    with pytest.raises(ServerError, match="2 models that segment: second, street") as caught:
        TritonSegmenter(server.url)
    assert "--model second" in caught.value.next_step
    TritonSegmenter(server.url, "street").close()
    server.configs = {"other": {}}
    with pytest.raises(ServerError, match="no model that segments") as caught:
        TritonSegmenter(server.url)
    assert "segdeploy package" in caught.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        {"output": []},
        {"output": {}},
        {"input": ["frame"]},
        {"max_batch_size": "many"},
        {"parameters": {"segdeploy": {"string_value": "{"}}},
        {"parameters": {"segdeploy": []}},
        {
            "parameters": {
                **CONFIGS["street"]["parameters"],
                "segdeploy_engine": {"string_value": "[1]"},
            }
        },
    ],
)
def test_a_model_that_is_not_understood(fake: FakeTransport, change: dict[str, Any]) -> None:
    strange = FakeTransport(brightest, {"m": {**CONFIGS["street"], **change}})
    with pytest.raises(ServerError, match="the model 'm'"):
        TritonSegmenter(strange)
    assert strange.closed == 1


INDEX = "/v2/repository/index"
CONFIG = "/v2/models/street/config"
RESTRICTED = RefusedError(403, "This API is restricted, expecting header 'x'")


def test_a_server_that_does_not_tell_its_models(server: KServe) -> None:
    server.instead = {INDEX: RESTRICTED}
    with pytest.raises(ServerError, match="does not tell which models it has") as caught:
        TritonSegmenter(server.url)
    assert "This API is restricted" in caught.value.found
    assert "--model NAME" in caught.value.next_step
    with TritonSegmenter(server.url, "street") as segment:
        np.testing.assert_array_equal(segment(noise()), brightest(noise()))
    with pytest.raises(ServerError, match="no model 'road' that is ready"):
        TritonSegmenter(server.url, "road")
    server.instead = {CONFIG: RESTRICTED}
    for name in (None, "street"):
        with pytest.raises(ServerError, match="This API is restricted"):
            TritonSegmenter(server.url, name)


@pytest.mark.parametrize(
    "instead",
    [
        {"/v2": []},
        {"/v2": None},
        {"/v2": "triton"},
        {INDEX: {"models": []}},
        {INDEX: None},
        {INDEX: ["street"]},
        {CONFIG: []},
        {CONFIG: None},
        {"/v2/models/street/infer": []},
        {"/v2/models/street/infer": {"outputs": {}}},
        {"/v2/models/street/infer": {"outputs": [None]}},
    ],
    ids=str,
)
def test_an_answer_of_another_form(server: KServe, instead: dict[str, Any]) -> None:
    server.instead = instead
    with pytest.raises(ServerError, match="is not a Triton server") as caught:
        with TritonSegmenter(server.url, shared_memory=False) as segment:
            segment(noise())
    assert server.url in caught.value.found


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"shape": 3, "datatype": "UINT8"},
        {"shape": [1, "48", 64], "datatype": "UINT8"},
        {"shape": [1, -1, 64], "datatype": "UINT8"},
        {"shape": [1, 48, 64], "datatype": []},
    ],
    ids=str,
)
def test_an_answer_that_is_no_class_map(server: KServe, output: dict[str, Any]) -> None:
    server.instead = {"/v2/models/street/infer": {"outputs": [{"name": "class_map", **output}]}}
    with TritonSegmenter(server.url, shared_memory=False) as segment:
        with pytest.raises(ServerError, match="answered with"):
            segment(noise())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("kind", "number"), [(np.uint8, 3), (np.int32, 3), (np.int32, -1)])
def test_a_class_that_the_model_does_not_have(kind: Any, number: int, shared: bool) -> None:
    def segmented(frame: Map) -> Map:
        found = np.zeros(frame.shape[:2], kind)
        found[5, 7] = number
        return found

    with TritonSegmenter(FakeTransport(segmented, CONFIGS), shared_memory=shared) as segment:
        with pytest.raises(ServerError, match=f"answered with class {number}") as caught:
            segment(noise())
    assert "0 to 2" in caught.value.expected


def test_nobody_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ServerError, match="Connection refused") as caught:
            TritonSegmenter(url)
    assert url in caught.value.found
    assert "check the address" in caught.value.next_step
    with pytest.raises(ServerError, match="no answer"):
        TritonSegmenter("http://no-such-host.invalid")


@pytest.fixture
def says() -> Iterator[Any]:
    """A listener that sends what it is told to, whatever it is asked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        held: list[socket.socket] = []

        def answer(data: bytes) -> str:
            def serve() -> None:
                connection, _ = listener.accept()
                held.append(connection)
                connection.recv(1 << 16)
                connection.sendall(data)

            threading.Thread(target=serve, daemon=True).start()
            return url

        yield answer
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00@\x00\r\n",  # HTTP/2, as gRPC speaks
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
)
def test_a_server_that_is_not_triton(says: Any, data: bytes) -> None:
    url = says(data)
    with pytest.raises(ServerError, match="is not a Triton server") as caught:
        TritonSegmenter(url, timeout=5)
    assert url in caught.value.found
    assert "scheme and port" in caught.value.next_step


def test_a_page_without_end_is_not_read_to_it(says: Any) -> None:
    url = says(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (17 << 20))
    with pytest.raises(ServerError, match="without end"):
        TritonSegmenter(url, timeout=5)


def test_a_silent_server_ends_in_time(says: Any, server: KServe) -> None:
    with pytest.raises(ServerError, match=r"no answer within 0.2 s") as caught:
        TritonSegmenter(says(b""), timeout=0.2)
    assert "--timeout" in caught.value.next_step
    with TritonSegmenter(server.url, timeout=0.3) as segment:
        server.delay_s = 1.0
        with pytest.raises(ServerError, match="no answer within"):
            segment(noise(seed=1))
        # The late answer to the first is not taken for the second's.
        server.delay_s = 0.0
        np.testing.assert_array_equal(segment(noise(seed=2)), brightest(noise(seed=2)))


def test_an_answer_that_breaks_off(server: KServe) -> None:
    with TritonSegmenter(server.url, shared_memory=False) as segment:
        server.cut_off = True
        with pytest.raises(ServerError, match="hung up after"):
            segment(noise())
    # A request is sent once.
    assert len(server.requests) == 1


def test_a_connection_that_was_ended_meanwhile_is_opened_again(server: KServe) -> None:
    with TritonSegmenter(server.url, shared_memory=False) as segment:
        server.close_each = True
        for seed in range(3):
            np.testing.assert_array_equal(segment(noise(seed=seed)), brightest(noise(seed=seed)))
            time.sleep(0.2)  # a proxy ends idle connections while nobody asks
        server.close_each = False
    assert len(server.requests) == 3


def test_the_servers_own_three_sentences(fake: FakeTransport) -> None:
    with TritonSegmenter(fake) as segment:
        fake.failure = Refused("invalid", "a cat\n  expected: a dog\n  next: adopt one")
        with pytest.raises(ServerError) as caught:
            segment(noise())
        assert caught.value.found == "fake://server refused a frame of 48x64 for 'street': a cat"
        assert (caught.value.expected, caught.value.next_step) == ("a dog", "adopt one")
        fake.failure = Refused("missing", "Request for unknown model: 'street' is not found")
        with pytest.raises(ServerError, match="unknown model") as caught:
            segment(noise())
        assert "log" in caught.value.next_step


def test_an_answer_of_another_size(fake: FakeTransport) -> None:
    for scale in (0.5, 3):
        size = int(48 * scale), int(64 * scale)
        other = FakeTransport(lambda frame, size=size: np.zeros(size, np.uint8), CONFIGS)
        for shared in (True, False):
            with TritonSegmenter(other, shared_memory=shared) as segment:
                with pytest.raises(ServerError, match="answered with class maps"):
                    segment(noise())


def test_grpc_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(MissingDependencyError, match="tritonclient") as caught:
        TritonSegmenter("grpc://127.0.0.1:1")
    assert "segformer-deploy[triton]" in caught.value.next_step


def test_closing_twice_and_after_the_server_went(server: KServe) -> None:
    segment = TritonSegmenter(server.url, timeout=0.5)
    server.delay_s = 0
    server.shutdown()
    server.server_close()
    segment.close()
    segment.close()
