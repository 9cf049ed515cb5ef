"""The steps of one network at one frame size, and the memory they work in."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.native import library
from segformer_deploy.engine.native.quantised import DEEPEST
from segformer_deploy.engine.native.weights import (
    Block,
    Convolution,
    HeadStage,
    Linear,
    Network,
    Norm,
    Stage,
    address,
    optional_address,
)
from segformer_deploy.errors import RunError

Floats = npt.NDArray[np.float32]
_NO_NORM = library.Norm()
_NO_GRIDS = library.Grids()
_NO_LINEAR = library.Linear()


class Program:
    """Steps from a frame to its logits; `run` is for one thread at a time.

    Args:
        network: packed weights, kept alive by this object.
        panel: width of a packed weight's panels.
        height, width: of the frame, at least 64 each.
    """

    def __init__(self, network: Network, panel: int, height: int, width: int) -> None:
        self._network = network
        self._panel = panel
        self._kept: list[Any] = []
        """What the steps point to: buffers, tables, the structs themselves."""
        self._arguments: list[library.Arguments] = []
        self._buffers: dict[str, Floats] = {}
        self._build(height, width)
        self._steps = (library.Step * len(self._arguments))(
            *(library.Step(a.kind, ctypes.addressof(a)) for a in self._arguments)
        )
        first, last = self._arguments[0], self._arguments[-1]
        assert isinstance(first, library.Convolution)
        assert isinstance(last, library.Decoder)
        self._first, self.decoder = first, last

    @property
    def bytes(self) -> int:
        """Of the buffers between the steps."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def run(self, run: Callable[..., int], pool: int, frame: int, logits: int | None) -> int:
        """Run all steps; `frame` and `logits` are addresses. Gives the kernels' status.

        Without `logits` all but the last, `decoder`, whose copies then give rows (`strips`).
        """
        self._first.input, self.decoder.logits = frame, logits
        return run(pool, self._steps, len(self._steps) - (logits is None))

    # Memory -----------------------------------------------------------------------------------

    def _buffer(self, name: str, count: int) -> int:
        """Address of the buffer `name`, grown to at least `count` floats.

        A buffer that grew moved: so all of them are asked for before the first step is made.
        """
        if name not in self._buffers or self._buffers[name].size < count:
            self._buffers[name] = np.zeros(count, np.float32)
        return address(self._buffers[name])

    def _at(self, name: str) -> int:
        return address(self._buffers[name])

    def _keep(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        return address(array)

    def _check(self, sizes: list[tuple[int, int]], height: int, width: int) -> None:
        """RunError where a stage, or the keys of one of its blocks, would have no token."""
        for number, (stage, (h, w)) in enumerate(
            zip(self._network.stages, sizes, strict=True), start=1
        ):
            if min(h, w, *(_reduced(block, h, w) for block in stage.blocks)) < 1:
                raise RunError(
                    f"an input of {height}x{width}: nothing is left of it in stage {number}",
                    "an input that every stage of this network can reduce",
                    "use a larger --size",
                )

            deepest = max((_reduced(b, h, w) for b in stage.blocks if b.grids), default=0)
            if deepest > DEEPEST:
                raise RunError(
                    f"an input of {height}x{width}: {deepest} keys in stage {number}",
                    f"at most {DEEPEST} where the attention is INT8",
                    "use a smaller --size",
                )

    def _reserve(self, sizes: list[tuple[int, int]]) -> None:
        panel = self._panel
        for number, (stage, head, (h, w)) in enumerate(
            zip(self._network.stages, self._network.head, sizes, strict=True), start=1
        ):
            tokens, channels = h * w, stage.channels
            self._buffer("tokens", tokens * channels)
            self._buffer("attended", tokens * channels)
            self._buffer("own" if number == 1 else "normed", tokens * channels)
            if head.project is not None:
                name = "own.projected" if number == 1 else "projected"
                self._buffer(name, tokens * head.project.outputs)
            if number > 1:
                self._buffer(f"fused{number}", tokens * head.fuse.outputs)
            for block in stage.blocks:
                reduced = _reduced(block, h, w)
                d = channels // block.heads
                self._buffer("reduced", reduced * channels)
                self._buffer("keys", -(-reduced // panel) * panel * channels)
                self._buffer("values", block.heads * -(-d // panel) * panel * reduced)

    # Steps ------------------------------------------------------------------------------------

    def _build(self, height: int, width: int) -> None:
        sizes = []
        h, w = height, width
        for stage in self._network.stages:
            h, w = stage.embed.out(h), stage.embed.out(w)
            sizes.append((h, w))
        self._check(sizes, height, width)
        self._reserve(sizes)
        source, before = 0, (height, width)
        stages = zip(self._network.stages, self._network.head, sizes, strict=True)
        for number, (stage, head, size) in enumerate(stages, start=1):
            self._stage(number, stage, source, before, size)
            source = self._at("own" if number == 1 else "normed")
            before = size
            self._head_stage(number, head, source, size)
        self._decoder(sizes)

    def _stage(
        self, number: int, stage: Stage, source: int, before: tuple[int, int], size: tuple[int, int]
    ) -> None:
        tokens = self._at("tokens")
        embed = self._convolution(stage.embed, source, tokens, before, after=stage.embed_norm)
        if number == 1:
            embed.mean = address(self._network.mean)
        for block in stage.blocks:
            self._block(number, block, size)
        normed = self._at("own" if number == 1 else "normed")
        self._linear(None, tokens, normed, size[0] * size[1], before=stage.norm)

    def _block(self, number: int, block: Block, size: tuple[int, int]) -> None:
        h, w = size
        x, attended = self._at("tokens"), self._at("attended")
        keys, values = self._at("keys"), self._at("values")
        reduced, grids = _reduced(block, h, w), block.grids or _NO_GRIDS
        linear, heads = block.key_value.struct, block.heads
        source, before = x, block.norm1.struct
        if block.reduce is not None:
            source, before = self._at("reduced"), _NO_NORM
            self._convolution(
                block.reduce, x, source, size, before=block.norm1, after=block.reduce_norm
            )
        self._arguments += [
            library.Keys(source, keys, values, linear, before, grids, reduced, heads),
            library.Attention(
                x,
                attended,
                keys,
                values,
                block.norm1.struct,
                block.query.struct,
                block.output.struct,
                grids,
                h * w,
                reduced,
                heads,
            ),
            library.Ffn(
                attended,
                x,
                block.norm2.struct,
                block.expand.struct,
                block.contract.struct,
                address(block.depthwise),
                address(block.depthwise_bias),
                h,
                w,
                1,
            ),
        ]

    def _convolution(
        self,
        layer: Convolution,
        source: int,
        target: int,
        size: tuple[int, int],
        *,
        before: Norm | None = None,
        after: Norm | None = None,
    ) -> library.Convolution:
        step = library.Convolution(
            input=source,
            output=target,
            linear=layer.linear.struct,
            before=before.struct if before else _NO_NORM,
            after=after.struct if after else _NO_NORM,
            height=size[0],
            width=size[1],
            channels=layer.channels,
            kernel=layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            out_height=layer.out(size[0]),
            out_width=layer.out(size[1]),
        )
        self._arguments.append(step)
        return step

    def _linear(
        self,
        layer: Linear | None,
        source: int,
        target: int,
        rows: int,
        *,
        before: Norm | None = None,
        relu: bool = False,
    ) -> None:
        self._arguments.append(
            library.LinearRows(
                source,
                target,
                layer.struct if layer else _NO_LINEAR,
                before.struct if before else _NO_NORM,
                rows,
                relu,
            )
        )

    def _head_stage(self, number: int, head: HeadStage, source: int, size: tuple[int, int]) -> None:
        rows = size[0] * size[1]
        if head.project is not None:
            target = self._at("own.projected" if number == 1 else "projected")
            self._linear(head.project, source, target, rows, relu=True)
            source = target
        if number > 1:  # stage 1's fuse belongs to the last step
            self._linear(head.fuse, source, self._at(f"fused{number}"), rows)

    def _decoder(self, sizes: list[tuple[int, int]]) -> None:
        network, (height, width) = self._network, sizes[0]
        coarse = range(3)
        self._arguments.append(
            library.Decoder(
                own=self._at("own" if network.head[0].project is None else "own.projected"),
                classifier=address(network.classifier.weight),
                classifier_bias=address(network.classifier.bias),
                classifier_scale=optional_address(network.classifier.scale),
                classifier_step=network.classifier.step,
                classifier_bytes=network.classifier.bytes,
                fuse=network.head[0].fuse.struct,
                coarse=(ctypes.c_void_p * 3)(*(self._at(f"fused{i + 2}") for i in coarse)),
                rows=(library.Axis * 3)(*(self._axis(sizes[i + 1][0], height) for i in coarse)),
                columns=(library.Axis * 3)(*(self._axis(sizes[i + 1][1], width) for i in coarse)),
                coarse_width=(ctypes.c_int32 * 3)(*(sizes[i + 1][1] for i in coarse)),
                height=height,
                width=width,
                channels=network.head[0].fuse.outputs,
                classes=network.classes,
            )
        )

    def _axis(self, inputs: int, outputs: int) -> library.Axis:
        """Pixel centres at half integers, clamped at the borders (ONNX's half_pixel)."""
        at = np.maximum((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5, 0.0)
        lower = np.minimum(np.floor(at).astype(np.int32), inputs - 1)
        upper = np.minimum(lower + 1, inputs - 1).astype(np.int32)
        share = np.clip(at - lower, 0.0, 1.0)
        tables = lower, upper, (1 - share).astype(np.float32), share.astype(np.float32)
        return library.Axis(*(self._keep(np.ascontiguousarray(table)) for table in tables))


def _reduced(block: Block, h: int, w: int) -> int:
    """Tokens that keys and values are made from."""
    if block.reduce is None:
        return h * w
    return max(block.reduce.out(h), 0) * max(block.reduce.out(w), 0)
