"""The ONNX parser of the fake TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from tests.engine.trt.fake_network import INetworkDefinition
from tests.engine.trt.fake_trt import ErrorCode, ILogger, World, checked


@dataclass(frozen=True)
class ParserError:
    _node: str
    _operator: str
    _desc: str
    _code: Any

    def node(self) -> int:
        return 3 if self._operator else -1

    def node_name(self) -> str:
        return self._node

    def node_operator(self) -> str:
        return self._operator

    def desc(self) -> str:
        return self._desc

    def code(self) -> Any:
        return self._code


class OnnxParser:
    """Knows every operation of ONNX itself and none of another domain."""

    __slots__ = ("_errors", "_network")
    world: World

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        checked(logger, ILogger)
        self._network, self._errors = network, list[ParserError]()

    def parse(self, data: bytes) -> bool:
        try:
            model = onnx.load_from_string(data)
            if not model.graph.node:
                raise ValueError("no nodes")
        except Exception:
            what = "Failed to parse the ONNX model."
            self._errors = [ParserError("", "", what, ErrorCode.MODEL_DESERIALIZE_FAILED)]
            return False
        self._errors = [
            ParserError(
                node.name,
                node.op_type,
                f"No importer registered for op: {node.op_type}",
                ErrorCode.UNSUPPORTED_NODE,
            )
            for node in model.graph.node
            if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type)
        ]
        if not self._errors:
            self._network.take(model)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]
