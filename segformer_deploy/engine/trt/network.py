"""ONNX bytes -> a network of the library; an error names the node and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.journal import Journal
from segformer_deploy.errors import BuildError

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass
class ParsedNetwork:
    """A network, and what must outlive it: the library reads weights from these bytes."""

    network: trt.INetworkDefinition
    parser: Any
    onnx: bytes


def network_from_onnx(
    library: Library, builder: trt.Builder, logger: Any, journal: Journal, onnx: bytes
) -> ParsedNetwork:
    """Parse an ONNX graph into a strongly typed network; BuildError names the node at fault."""
    api = library.api
    # TensorRT 11 knows no other kind and takes the flag all the same.
    flags = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: trt.INetworkDefinition = builder.create_network(flags)
    parser: trt.OnnxParser = api.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise _parse_error(library, parser, journal)
    return ParsedNetwork(network, parser, onnx)


def _parse_error(library: Library, parser: trt.OnnxParser, journal: Journal) -> BuildError:
    if parser.num_errors == 0:
        said = "; ".join(journal.errors[:2]) or "it gave no reason"
        return BuildError(f"{library.name} cannot read the ONNX graph: {said}", "a graph it parses")
    error: trt.ParserError = parser.get_error(0)
    where, operator = error.node_name(), error.node_operator()
    said = " ".join(error.desc().split())[:300]
    if not where and error.node() < 0:
        return BuildError(
            f"{library.name} cannot read the ONNX graph: {said}",
            "a whole ONNX file",
            "export the graph again: segdeploy export",
        )
    node = f"node '{where or error.node()}'" + (f" ({operator})" if operator else "")
    more = f"; {parser.num_errors - 1} more errors" if parser.num_errors > 1 else ""
    return BuildError(
        f"{library.name} cannot take {node}: {said}{more}",
        "operations that its ONNX parser knows",
        _advice(library, f"{error.code()} {said}", operator),
    )


def _advice(library: Library, said: str, operator: str) -> str:
    # What the parser does not know it looks for among the plugins.
    if "UNSUPPORTED" in said or "Plugin not found" in said:
        kind = f"the operation {operator}" if operator else "it"
        return (
            f"update {library.flavour.title} to a release that knows {kind}, or build for another "
            "library: --backend onnxruntime"
        )
    if "INVALID" in said or "MODEL" in said:
        return "export the graph again with this version: segdeploy export"
    return "export the graph again, or build for another library: --backend onnxruntime"


def layers_of(network: trt.INetworkDefinition) -> Iterator[trt.ILayer]:
    """The layers of a network, in its order."""
    for index in range(network.num_layers):
        yield network.get_layer(index)
