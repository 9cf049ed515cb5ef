"""A stand-in for `triton_python_backend_utils`, as a packaged model meets it inside the server.

Like the real one, compiled against NumPy 1, it gives nothing useful but by DLPack: `as_numpy` gives
other memory, and a tensor made of an array raises.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from segformer_deploy.serve.dlpack import lent_count


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        raise AssertionError("an array of NumPy 2 would be sent without its bytes")

    @classmethod
    def of(cls, name: str, array: Any) -> Tensor:
        made = cls.__new__(cls)
        made.name, made.array = name, np.ascontiguousarray(array)
        return made

    @classmethod
    def from_dlpack(cls, name: str, lender: Any) -> Tensor:
        held = np.from_dlpack(lender)
        return cls.of(name, held.copy())

    def __dlpack__(self, **more: Any) -> Any:
        return self.array.__dlpack__(**more)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def as_numpy(self) -> Any:
        return np.zeros_like(self.array)


class TritonError:
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):  # noqa: N818 - its name in the server
    pass


class InferenceResponse:
    def __init__(self, output_tensors: Any = (), error: TritonError | None = None) -> None:
        self.tensors = {one.name: one for one in output_tensors}
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Request:
    """What a client sent."""

    def __init__(self, parameters: dict[str, Any] | str | None = None, **inputs: Any) -> None:
        self.inputs = {name: Tensor.of(name, array) for name, array in inputs.items()}
        self._parameters = parameters

    def parameters(self) -> str:
        if isinstance(self._parameters, str):
            return self._parameters
        return json.dumps(self._parameters) if self._parameters else ""


class FakeBackend:
    """The module; `networks` are the other models of the server: name -> image -> answer.

    Its versions are those in `loaded`.
    """

    Tensor, TritonError, InferenceResponse = Tensor, TritonError, InferenceResponse
    TritonModelException = TritonModelException
    TRITONSERVER_MEMORY_CPU = 0

    def __init__(self, **networks: Callable[[Any], Any]) -> None:
        self.networks = networks
        self.logged: list[str] = []
        self.asked: list[tuple[str, int, tuple[int, ...]]] = []
        self.loaded = {1}
        self.Logger = SimpleNamespace(log_info=self.logged.append, log_error=self.logged.append)

    def PreferredMemory(self, kind: int, device: int) -> tuple[int, int]:  # noqa: N802
        return kind, device

    def InferenceRequest(self, **what: Any) -> Any:  # noqa: N802
        return SimpleNamespace(exec=lambda: self._answer(**what))

    def _answer(
        self,
        model_name: str,
        requested_output_names: list[str],
        inputs: list[Tensor],
        model_version: int = -1,
        **_: Any,
    ) -> InferenceResponse:
        image = inputs[0].array
        self.asked.append((model_name, model_version, image.shape))
        try:
            if model_version not in {-1, *self.loaded}:
                raise ValueError(f"'{model_name}' version {model_version} is not at ready state")
            found = self.networks[model_name.replace("-", "_")](image)
        except Exception as error:
            return InferenceResponse(error=TritonError(str(error)))
        return InferenceResponse([Tensor.of(requested_output_names[0], found)])

    @staticmethod
    def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
        return request.inputs.get(name)

    @staticmethod
    def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
        return response.tensors.get(name)


def nothing_lent() -> bool:
    """Whether every array that was handed over has been given back."""
    gc.collect()
    return lent_count() == 0
