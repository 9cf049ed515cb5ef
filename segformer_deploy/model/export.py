"""A SegFormer's deploy form as an ONNX graph, written by hand.

Written, not traced: the graph has the nodes listed here and no others, its names are stable,
and nothing of any size is baked in. Tokens stay [B, h, w, C]. A layout changes only where a
convolution starts or ends; only the attention needs a reshape, and its shapes come from the
input (`Shape`, `Concat`), so every height and width from 64 up and every batch goes.
"""

from __future__ import annotations

from importlib import metadata

import onnx

from segformer_deploy.errors import SpecError
from segformer_deploy.model.deploy import (
    DeployAttention,
    DeployBlock,
    DeployFFN,
    DeployForm,
    DeployHead,
    DeployStage,
    deploy_form,
)
from segformer_deploy.model.layers import Convolution, Norm, Projection
from segformer_deploy.model.onnx_graph import FLOAT, UINT8, GraphBuilder, tensor_info
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.spec import METADATA_KEY, ModelSpec

BATCH = "frames.batch"
"""The value that holds the batch size, int64 [1]."""


def onnx_from_model(
    model: Segformer, spec: ModelSpec, *, name: str = "segformer"
) -> onnx.ModelProto:
    """The ONNX graph of `model`'s deploy form, FP32, with `spec` in its metadata.

    Input ``image``: uint8 [batch, height, width, 3], RGB, all three free. Output ``logits``:
    float32 [batch, classes, ceil(height/4), ceil(width/4)].

    Raises:
        SpecError: `spec` has another number of classes than `model`, or is not for logits
            in FP32 (the other forms are made from this graph).
    """
    classes = model.config.classes
    if spec.classes != classes:
        raise SpecError(
            f"a spec of {spec.classes} classes for a model of {classes}",
            "as many class names as the model has logit channels",
        )
    if (spec.precision, spec.output) != ("fp32", "logits"):
        raise SpecError(
            f"an export to {spec.precision} with output {spec.output}",
            "fp32 with logits; other graphs are rewritten from that one",
        )
    graph = GraphBuilder()
    _add_network(graph, deploy_form(model, spec.mean, spec.std))
    doc = (
        f"SegFormer {spec.variant}, {classes} classes, exact deploy form. "
        "image: RGB frames, 0 to 255; logits: a quarter of the frame's size."
    )
    result = graph.model(
        name,
        [tensor_info("image", UINT8, ["batch", "height", "width", 3])],
        [tensor_info("logits", FLOAT, ["batch", classes, "logits_height", "logits_width"])],
        doc=doc,
        producer_version=_version(),
    )
    onnx.helper.set_model_props(result, {METADATA_KEY: spec.to_json()})
    return result


def _version() -> str:
    try:
        return metadata.version("segformer-deploy")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "source"


def _add_network(graph: GraphBuilder, form: DeployForm) -> None:
    graph.shape("image", 0, 1, BATCH)
    frames = graph.node("Cast", ["image"], "frames.float", to=FLOAT)
    frames = graph.channels_first(frames, "frames.nchw")
    image = graph.node("Sub", [frames, graph.weight("mean", form.mean)], "frames.centred")
    outputs, sizes = [], []
    for number, stage in enumerate(form.stages, start=1):
        prefix = f"stage{number}"
        tokens, size = _add_stage(graph, stage, image, prefix)
        outputs.append(tokens)
        sizes.append(size)
        if number < 4:
            image = graph.channels_first(tokens)
    _add_head(graph, form.decoder, outputs, sizes[0])


def _add_stage(graph: GraphBuilder, stage: DeployStage, image: str, prefix: str) -> tuple[str, str]:
    """[B, C_in, H, W] -> names of the tokens [B, h, w, C] and of the size (h, w)."""
    embedded = _convolution(graph, stage.embed, image, f"{prefix}.embed")
    size = graph.shape(embedded, 2, 4, f"{prefix}.size")
    tokens = _norm(graph, stage.embed_norm, graph.channels_last(embedded), f"{prefix}.embed_norm")
    width = stage.norm.weight.shape[0]
    shape = graph.concat([BATCH, size, graph.integers(width)], f"{prefix}.shape")
    for index, block in enumerate(stage.blocks):
        tokens = _add_block(graph, block, tokens, shape, f"{prefix}.block{index}")
    return _norm(graph, stage.norm, tokens, f"{prefix}.norm"), size


def _add_block(
    graph: GraphBuilder, block: DeployBlock, tokens: str, shape: str, prefix: str
) -> str:
    normed = _norm(graph, block.norm1, tokens, f"{prefix}.norm1")
    mixed = _add_attention(graph, block.attention, normed, shape, f"{prefix}.attention")
    tokens = graph.node("Add", [tokens, mixed], f"{prefix}.attended")
    normed = _norm(graph, block.norm2, tokens, f"{prefix}.norm2")
    mixed = _add_ffn(graph, block.ffn, normed, f"{prefix}.ffn")
    return graph.node("Add", [tokens, mixed], f"{prefix}.out")


def _add_attention(
    graph: GraphBuilder, layer: DeployAttention, tokens: str, shape: str, prefix: str
) -> str:
    source = tokens
    if layer.reduce is not None and layer.reduce_norm is not None:
        reduced = graph.channels_first(tokens)
        reduced = _convolution(graph, layer.reduce, reduced, f"{prefix}.reduce")
        reduced = graph.channels_last(reduced)
        source = _norm(graph, layer.reduce_norm, reduced, f"{prefix}.reduce_norm")
    query = _projection(graph, layer.query, tokens, f"{prefix}.query")
    both = _projection(graph, layer.key_value, source, f"{prefix}.key_value")
    key, value = graph.split(both, [f"{prefix}.key", f"{prefix}.value"])
    query, key, value = (_by_head(graph, layer, part) for part in (query, key, value))
    scores = graph.node("MatMul", [query, key], f"{prefix}.scores")
    weights = graph.node("Softmax", [scores], f"{prefix}.softmax", axis=-1)
    mixed = graph.node("MatMul", [weights, value], f"{prefix}.mixed")
    if layer.heads > 1:
        mixed = graph.node("Transpose", [mixed], f"{prefix}.joined_heads", perm=[0, 2, 1, 3])
    mixed = graph.node("Reshape", [mixed, shape], f"{prefix}.mixed_map")
    return _projection(graph, layer.output, mixed, f"{prefix}.output")


def _by_head(graph: GraphBuilder, layer: DeployAttention, value: str) -> str:
    """[B, h, w, C] -> [B, heads, N, d], the key [B, heads, d, N]; no head axis for one head."""
    channels = layer.query.weight.shape[1]
    is_key = value.endswith(".key")
    if layer.heads == 1:
        target = graph.integers(0, -1, channels)
        flat = graph.node("Reshape", [value, target], f"{value}.tokens")
        if not is_key:
            return flat
        return graph.node("Transpose", [flat], f"{value}.heads", perm=[0, 2, 1])
    # Four axes in, four out: 0 keeps the batch, -1 takes the tokens.
    target = graph.integers(0, -1, layer.heads, channels // layer.heads)
    split = graph.node("Reshape", [value, target], f"{value}.tokens")
    perm = [0, 2, 3, 1] if is_key else [0, 2, 1, 3]
    return graph.node("Transpose", [split], f"{value}.heads", perm=perm)


def _add_ffn(graph: GraphBuilder, layer: DeployFFN, tokens: str, prefix: str) -> str:
    hidden = graph.channels_first(tokens)
    hidden = _convolution(graph, layer.expand, hidden, f"{prefix}.expand")
    hidden = _convolution(graph, layer.depthwise, hidden, f"{prefix}.depthwise")
    hidden = graph.node("Gelu", [hidden], f"{prefix}.gelu", approximate="none")
    hidden = _convolution(graph, layer.contract, hidden, f"{prefix}.contract")
    return graph.channels_last(hidden)


def _add_head(graph: GraphBuilder, head: DeployHead, stages: list[str], size: str) -> None:
    """Stages as [B, h, w, C] -> ``logits``; see `DeployHead`."""
    projected = []
    for number, (layer, value) in enumerate(zip(head.stages, stages, strict=True), start=1):
        prefix = f"decoder.stage{number}"
        if layer.project is not None:
            value = _projection(graph, layer.project, value, f"{prefix}.project")
            value = graph.node("Relu", [value], f"{prefix}.relu")
        projected.append(_projection(graph, layer.fuse, value, f"{prefix}.fuse"))
    channels = head.classifier.weight.shape[0]
    shape = graph.concat([BATCH, size, graph.integers(channels)], "decoder.shape")
    total = ""
    for number in (4, 3, 2):
        resized = graph.node(
            "Resize",
            [projected[number - 1], "", "", shape],
            f"decoder.stage{number}.resized",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        name = f"decoder.sum{number}"
        total = graph.node("Add", [total, resized], name) if total else resized
    total = graph.node("Add", [projected[0], total], "decoder.sum1")
    fused = graph.node("Relu", [total], "decoder.relu")
    classified = _projection(graph, head.classifier, fused, "decoder.classifier")
    graph.channels_first(classified, "logits")


def _projection(graph: GraphBuilder, layer: Projection, value: str, name: str) -> str:
    weight = graph.weight(f"{name}.weight", layer.weight)
    if layer.bias is None:
        return graph.node("MatMul", [value, weight], name)
    product = graph.node("MatMul", [value, weight], f"{name}.product")
    return graph.node("Add", [product, graph.weight(f"{name}.bias", layer.bias)], name)


def _convolution(graph: GraphBuilder, layer: Convolution, value: str, name: str) -> str:
    weight = graph.weight(f"{name}.weight", layer.weight)
    bias = graph.weight(f"{name}.bias", layer.bias)
    return graph.node(
        "Conv",
        [value, weight, bias],
        name,
        kernel_shape=list(layer.weight.shape[2:]),
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
        group=layer.groups,
    )


def _norm(graph: GraphBuilder, layer: Norm, value: str, name: str) -> str:
    inputs = [
        value,
        graph.weight(f"{name}.weight", layer.weight),
        graph.weight(f"{name}.bias", layer.bias),
    ]
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=layer.eps)
