"""Triton over gRPC, by `tritonclient[grpc]`, which is imported when a channel is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from segformer_deploy.errors import MissingDependencyError
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

_T = TypeVar("_T")
_MOST = 2**31 - 1
_CHANNEL = (
    ("grpc.max_send_message_length", _MOST),
    ("grpc.max_receive_message_length", _MOST),
    # As over HTTP: nothing is sent twice, and a proxy of the environment is not asked.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class GrpcTransport:
    """Speaks gRPC to one server.

    Args:
        address: with scheme ``grpc`` or ``grpcs``.
        timeout: seconds until a request counts as unanswered.

    Raises:
        MissingDependencyError: where `tritonclient[grpc]` is not installed.
    """

    def __init__(self, address: ServerAddress, timeout: float) -> None:
        try:
            from tritonclient import grpc
            from tritonclient.utils import InferenceServerException
        except ImportError as error:
            raise MissingDependencyError(
                error.name or "tritonclient", "triton", "grpc:// (http:// needs nothing)"
            ) from error
        self.url = str(address)
        self._timeout, self._grpc, self._error = timeout, grpc, InferenceServerException
        self._met = False
        self._client = grpc.InferenceServerClient(
            address.place, ssl=address.secure, channel_args=list(_CHANNEL)
        )

    def server(self) -> str:
        try:
            client, limit = self._client, self._timeout
            found = self._guarded(lambda: client.get_server_metadata(client_timeout=limit))
        except RefusedError as error:
            raise not_triton(self.url, error.text) from error
        self._met = True
        return f"{found.name} {found.version}"

    def models(self) -> list[str]:
        client, limit = self._client, self._timeout
        index = self._guarded(lambda: client.get_model_repository_index(client_timeout=limit))
        return sorted({one.name for one in index.models if one.state == "READY"})

    def config(self, model: str, version: str) -> dict[str, Any]:
        client, limit = self._client, self._timeout
        found: dict[str, Any] = self._guarded(
            lambda: client.get_model_config(model, version, as_json=True, client_timeout=limit)
        )["config"]
        return found

    def infer(self, call: Call) -> Reply:
        given = self._grpc.InferInput(call.input, list(call.shape), "UINT8")
        if isinstance(call.data, Shared):
            given.set_shared_memory(call.data.region, call.data.bytes)
        else:
            given.set_data_from_numpy(call.data)
        wanted = self._grpc.InferRequestedOutput(CLASS_MAP)
        if call.answer is not None:
            wanted.set_shared_memory(call.answer.region, call.answer.bytes)
        result = self._guarded(
            lambda: self._client.infer(
                call.model,
                [given],
                call.version,
                [wanted],
                client_timeout=self._timeout,
                parameters=call.parameters or None,
            )
        )
        output = result.get_output(CLASS_MAP)
        if output is None:
            raise not_triton(self.url, f"an answer without '{CLASS_MAP}'")
        # A message's bytes cannot be written to; the caller's array can.
        values = None
        if call.answer is None and output.datatype in DTYPES:
            values = result.as_numpy(CLASS_MAP).copy()
        return reply_of(self.url, list(output.shape), output.datatype, values)

    def register(self, region: str, key: str, size: int) -> None:
        client, limit = self._client, self._timeout
        self._guarded(
            lambda: client.register_system_shared_memory(region, key, size, client_timeout=limit)
        )

    def unregister(self, region: str) -> None:
        client, limit = self._client, self._timeout
        self._guarded(lambda: client.unregister_system_shared_memory(region, client_timeout=limit))

    def close(self) -> None:
        self._client.close()

    def _guarded(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except self._error as error:
            status = str(error.status()).removeprefix("StatusCode.")
            raise self._said(status, str(error.message())) from error

    def _said(self, status: str, text: str) -> Exception:
        if status == "DEADLINE_EXCEEDED":
            return too_slow(self.url, self._timeout)
        if "protocol is restricted" in text:  # it answered, but keeps this to some
            return RefusedError("failed", text)
        if status == "UNAVAILABLE" and not self._met and _hung_up(text):
            return not_triton(self.url, "it does not speak gRPC")
        if status in ("UNAVAILABLE", "CANCELLED"):
            return unreachable(self.url, text)
        if status == "UNIMPLEMENTED":
            return not_triton(self.url, text or "it knows nothing of inference")
        return RefusedError(_kind_of(status, text), text)


def _kind_of(status: str, text: str) -> Kind:
    if status == "NOT_FOUND" or "unknown model" in text:
        return "missing"
    return "invalid" if status == "INVALID_ARGUMENT" else "failed"


def _hung_up(text: str) -> bool:
    """Whether somebody is there who does not know what to do with gRPC's first words."""
    return any(words in text.lower() for words in ("socket closed", "http1", "http/1"))
