"""Triton over HTTP: KServe's v2 protocol with Triton's binary tensors, by Python's own client.

A request is one JSON head with the pixels behind it, an answer a JSON head with the class maps
behind it. The pixels are sent from where they lie, and the answer is read into the array that
the caller gets. `tritonclient.http` sends the same, but brings gevent, which ties a client to
one thread.
"""

from __future__ import annotations

import json
import select
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote

import numpy as np

from segformer_deploy.errors import ServerError
from segformer_deploy.serve.address import ServerAddress
from segformer_deploy.serve.names import CLASS_MAP
from segformer_deploy.serve.transport import (
    DTYPES,
    Call,
    Kind,
    RefusedError,
    Reply,
    Shared,
    not_triton,
    reply_of,
    too_slow,
    unreachable,
)

_HEAD = "Inference-Header-Content-Length"
_MOST_TEXT = 16 << 20
"""Bytes of an answer's JSON; configurations hold a palette and names, some kilobytes."""
_Part = bytes | memoryview


class HttpTransport:
    """Speaks HTTP to one server over one connection that is kept.

    Args:
        address: with scheme ``http`` or ``https``.
        timeout: seconds without a byte until the server counts as silent.
    """

    def __init__(self, address: ServerAddress, timeout: float) -> None:
        self.url = str(address)
        self._base, self._timeout = address.base, timeout
        self._connection: HTTPConnection = (
            HTTPSConnection(
                address.host,
                address.port,
                timeout=timeout,
                context=ssl.create_default_context(),
            )
            if address.secure
            else HTTPConnection(address.host, address.port, timeout=timeout)
        )

    def server(self) -> str:
        try:
            data = self._object("GET", "v2")
            return f"{data['name']} {data['version']}"
        except RefusedError as error:
            raise not_triton(self.url, error.text) from error
        except KeyError as error:
            raise not_triton(self.url, f"its description has no {error}") from error

    def models(self) -> list[str]:
        found = self._json("POST", "v2/repository/index", {"ready": True})
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise not_triton(self.url, "its repository index is not a list of models")
        return sorted({str(one["name"]) for one in found if "name" in one})

    def config(self, model: str, version: str) -> dict[str, Any]:
        return self._object("GET", f"{_path_of(model, version)}/config")

    def infer(self, call: Call) -> Reply:
        parts = _parts_of(call)
        head = json.dumps(_head_of(call, sum(map(len, parts)))).encode()
        answered, data = self._exchange(
            "POST",
            f"{_path_of(call.model, call.version)}/infer",
            [head, *parts],
            {_HEAD: str(len(head)), "Content-Type": "application/octet-stream"},
            _MOST_TEXT + call.most_bytes,
        )
        length = self._length(answered, len(data))
        output = self._output(self._parsed(bytes(data[:length])))
        shape, datatype = _shape_of(output.get("shape")), str(output.get("datatype"))
        if call.answer is not None or datatype not in DTYPES or len(shape) != 3:
            return reply_of(self.url, shape, datatype, None)
        try:
            values = np.frombuffer(data, DTYPES[datatype], offset=length).reshape(shape)
        except ValueError as error:
            raise not_triton(self.url, f"an answer that was cut off ({error})") from error
        return reply_of(self.url, shape, datatype, values)

    def register(self, region: str, key: str, size: int) -> None:
        body = {"key": key, "offset": 0, "byte_size": size}
        self._json("POST", f"v2/systemsharedmemory/region/{quote(region)}/register", body)

    def unregister(self, region: str) -> None:
        self._json("POST", f"v2/systemsharedmemory/region/{quote(region)}/unregister", {})

    def close(self) -> None:
        self._connection.close()

    def _output(self, head: Any) -> dict[str, Any]:
        outputs = head.get("outputs") if isinstance(head, dict) else None
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, dict) and output.get("name") == CLASS_MAP:
                return output
        raise not_triton(self.url, f"an answer without '{CLASS_MAP}'")

    def _length(self, answered: Mapping[str, str], whole: int) -> int:
        """Bytes of an answer's JSON head."""
        text = answered.get(_HEAD.lower(), str(whole))
        if not text.isdecimal():
            raise not_triton(self.url, f"an answer with a head of {text!r} bytes")
        return min(int(text), whole)

    def _object(self, method: str, path: str) -> dict[str, Any]:
        found = self._json(method, path)
        if not isinstance(found, dict):
            raise not_triton(self.url, f"{path} is {json.dumps(found)[:40]}, not an object")
        return found

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        parts = [] if body is None else [json.dumps(body).encode()]
        headers = {} if body is None else {"Content-Type": "application/json"}
        _, data = self._exchange(method, path, parts, headers, _MOST_TEXT)
        return self._parsed(bytes(data)) if data else {}

    def _parsed(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise not_triton(self.url, f"its answer begins with {text[:40]!r}") from error

    def _exchange(
        self,
        method: str,
        path: str,
        parts: Sequence[_Part],
        headers: Mapping[str, str],
        most: int,
    ) -> tuple[Mapping[str, str], bytearray]:
        """Headers and body of the answer to one request; sent once, never again."""

        def asked() -> tuple[int, Mapping[str, str], bytearray]:
            self._hang_up_if_dropped()
            # Without its length http.client would send the body in chunks, even an empty one.
            more = {**headers, "Content-Length": str(sum(map(len, parts)))} if parts else headers
            path_there = f"{self._base}/{path}"
            self._connection.request(method, path_there, body=parts or None, headers=more)
            response = self._connection.getresponse()
            return response.status, _lower(response.headers.items()), self._body(response, most)

        status, answered, data = self._guarded(asked)
        if status >= 300:
            raise self._refused(status, bytes(data))
        return answered, data

    def _guarded(
        self, ask: Callable[[], tuple[int, Mapping[str, str], bytearray]]
    ) -> tuple[int, Mapping[str, str], bytearray]:
        try:
            return ask()
        except BaseException as error:
            # Half an answer may be on its way: nothing else can be asked on this connection.
            self._connection.close()
            if isinstance(error, TimeoutError):
                raise too_slow(self.url, self._timeout) from error
            if isinstance(error, OSError):
                raise unreachable(self.url, error.strerror or str(error)) from error
            if isinstance(error, HTTPException):
                what = f"it does not speak HTTP ({type(error).__name__})"
                raise not_triton(self.url, what) from error
            raise

    def _hang_up_if_dropped(self) -> None:
        """A server may end a connection that nobody used for a while; a new one is opened then.

        Nothing was sent yet, so this is no second try.
        """
        if self._connection.sock is not None:
            poll = select.poll()
            poll.register(self._connection.sock, select.POLLIN)
            if poll.poll(0):
                self._connection.close()

    def _body(self, response: HTTPResponse, most: int) -> bytearray:
        length = response.length
        if length is None:
            # Whoever sends without an end (a camera's own page) is not read to it.
            data = bytearray(response.read(_MOST_TEXT))
            if len(data) == _MOST_TEXT:
                raise not_triton(self.url, "an answer without end")
            return data
        if length > most:
            raise not_triton(self.url, f"an answer of {length} bytes")
        data, at = bytearray(length), 0
        with memoryview(data) as view:
            while at < length:
                read = response.readinto(view[at:])
                if not read:
                    raise ConnectionResetError(f"it hung up after {at} of {length} bytes")
                at += read
        response.close()
        return data

    def _refused(self, status: int, data: bytes) -> ServerError | RefusedError:
        try:
            text = str(json.loads(data)["error"])
        except (ValueError, KeyError, TypeError):
            return not_triton(self.url, f"HTTP {status}, and no reason that Triton gives")
        return RefusedError(_kind_of(status, text), text)


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _kind_of(status: int, text: str) -> Kind:
    if status == 404 or "unknown model" in text:
        return "missing"
    return "invalid" if status == 400 else "failed"


def _path_of(model: str, version: str) -> str:
    of_version = f"/versions/{quote(version, safe='')}" if version else ""
    return f"v2/models/{quote(model, safe='')}{of_version}"


def _shape_of(given: Any) -> list[int]:
    """The shape in an answer; an empty one, which is no class map's, where it is none."""
    sizes = given if isinstance(given, list) else []
    return sizes if all(type(size) is int and size > 0 for size in sizes) else []


def _parts_of(call: Call) -> list[_Part]:
    """The input's bytes, from where they lie."""
    return [] if isinstance(call.data, Shared) else [call.data.data.cast("B")]


def _head_of(call: Call, size: int) -> dict[str, Any]:
    where: dict[str, Any] = {"binary_data_size": size}
    if isinstance(call.data, Shared):
        where = _place(call.data)
    answer = {"binary_data": True} if call.answer is None else _place(call.answer)
    return {
        "parameters": call.parameters,
        "inputs": [
            {
                "name": call.input,
                "shape": list(call.shape),
                "datatype": "UINT8",
                "parameters": where,
            }
        ],
        "outputs": [{"name": CLASS_MAP, "parameters": answer}],
    }


def _place(shared: Shared) -> dict[str, Any]:
    return {
        "shared_memory_region": shared.region,
        "shared_memory_byte_size": shared.bytes,
    }
