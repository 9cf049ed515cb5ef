"""A server of KServe's v2 protocol with Triton's binary tensors, a thread per connection.

Written from the protocol's text and sharing no code with the client, so that every test run has
the HTTP transport speak to somebody. Its answers to wrong requests are Triton's, word for word
where a client looks at them.
"""

from __future__ import annotations

import json
import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Segment = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


class RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class KServe(ThreadingHTTPServer):
    """`segment` for all `configs`; the knobs may be turned while it runs."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, segment: Segment, configs: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.segment, self.configs = segment, configs
        self.sees_memory = True
        self.most_memory = 1 << 40
        self.instead: dict[str, Any] = {}
        """Answers by path: a value; or a `RefusedError`."""
        self.base = ""
        self.delay_s = 0.0
        self.cut_off = False
        self.close_each = False
        self.regions: dict[str, mmap.mmap] = {}
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are some tests' business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KServe

    def log_message(self, *arguments: Any) -> None:
        pass

    def parse_request(self) -> bool:
        read = super().parse_request()
        if read:
            self.path = self.path.removeprefix(self.server.base)
        return read

    def do_GET(self) -> None:
        if self.path in self.server.instead:
            self.answer_instead()
            return
        if self.path == "/v2":
            self.answer({"name": "triton", "version": "2.51.0", "extensions": []})
            return
        name = self.path.removeprefix("/v2/models/").split("/")[0]
        if not self.path.endswith("/config") or name not in self.server.configs:
            self.refuse(400, f"Request for unknown model: '{name}' is not found")
            return
        self.answer(self.server.configs[name])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path in self.server.instead:
            self.answer_instead()
            return
        try:
            if self.path == "/v2/repository/index":
                self.answer([{"name": n, "state": "READY"} for n in self.server.configs])
            elif self.path.endswith("/infer"):
                self.infer(body)
            else:
                self.memory(json.loads(body))
        except RefusedError as error:
            self.refuse(error.status, error.text)

    def answer_instead(self) -> None:
        wanted = self.server.instead[self.path]
        if isinstance(wanted, RefusedError):
            self.refuse(wanted.status, wanted.text)
        else:
            self.answer(wanted)

    def memory(self, wanted: dict[str, Any]) -> None:
        *_, region, what = self.path.split("/")
        if what == "unregister":
            self.server.regions.pop(region, None)
            self.answer({})
            return
        path = Path("/dev/shm") / wanted["key"].lstrip("/")
        too_much = wanted["byte_size"] > self.server.most_memory
        if not self.server.sees_memory or not path.exists() or too_much:
            raise RefusedError(400, f"Unable to open shared memory region: '{region}'")
        with path.open("r+b") as file:
            self.server.regions[region] = mmap.mmap(file.fileno(), wanted["byte_size"])
        self.answer({})

    def infer(self, body: bytes) -> None:
        length = int(self.headers["Inference-Header-Content-Length"])
        head, data = json.loads(body[:length]), body[length:]
        with self.server.lock:
            self.server.requests.append(head)
        if self.server.delay_s:
            time.sleep(self.server.delay_s)
        maps = [self.server.segment(one) for one in self.pictures(head, data)]
        if len({one.shape for one in maps}) != 1:
            raise RefusedError(400, "pictures of several sizes in one request")
        values = np.ascontiguousarray(np.stack(maps))
        output: dict[str, Any] = {
            "name": "class_map",
            "datatype": {"uint8": "UINT8", "int32": "INT32"}[values.dtype.name],
            "shape": list(values.shape),
        }
        wanted = head["outputs"][0]["parameters"]
        if wanted.get("binary_data"):
            output["parameters"] = {"binary_data_size": values.nbytes}
            self.answer({"outputs": [output]}, values.tobytes())
            return
        memory = self.server.regions[wanted["shared_memory_region"]]
        assert values.nbytes <= wanted["shared_memory_byte_size"] <= len(memory)
        memory[: values.nbytes] = values.tobytes()
        self.answer({"outputs": [output]})

    def pictures(self, head: dict[str, Any], data: bytes) -> Iterator[np.ndarray[Any, Any]]:
        (given,) = head["inputs"]
        parameters = given["parameters"]
        if given["name"] == "encoded":
            assert parameters["binary_data_size"] == len(data)
            assert given["shape"] == [1, len(data)]
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), 1)
            assert picture is not None
            yield picture
            return
        if "shared_memory_region" in parameters:
            memory = self.server.regions.get(parameters["shared_memory_region"])
            if memory is None:
                raise RefusedError(400, "Unable to find shared memory region")
            data = memory[: parameters["shared_memory_byte_size"]]
        swap = -1 if head["parameters"]["pixel_format"] == "rgb" else 1
        for one in np.frombuffer(data, np.uint8).reshape(given["shape"]):
            yield one[..., ::swap]

    def refuse(self, status: int, text: str) -> None:
        self.answer({"error": text}, status=status)

    def answer(self, head: Any, data: bytes = b"", status: int = 200) -> None:
        text = json.dumps(head).encode()
        self.send_response(status)
        if data:
            self.send_header("Inference-Header-Content-Length", str(len(text)))
        self.send_header("Content-Length", str(len(text) + len(data)))
        self.end_headers()
        whole = text + data
        if self.server.cut_off and data:
            self.wfile.write(whole[: len(whole) // 2])
            self.close_connection = True
            return
        self.wfile.write(whole)
        if self.server.close_each:
            self.close_connection = True


@contextmanager
def kserve(segment: Segment, configs: dict[str, dict[str, Any]]) -> Iterator[KServe]:
    with KServe(segment, configs) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
