"""``frames -> float -> channels first -> minus mean -> 7x7 convolution``  ->  the same in strips.

Exactness: bits. A row of a convolution's output reads `kernel` rows of its input; a strip takes
those rows and pads with zeros only where the whole frame would (after the mean is subtracted).
(Which order a library adds products in is its own; see the tests.)

What it saves: the frame in float, three times over, and what the library keeps in its layout.
"""

from __future__ import annotations

from math import prod

import onnx

from segformer_deploy.graph.chunk_edit import GraphEdit, attribute, even_rows, pieces_for


def strip_embedding(model: onnx.ModelProto, limit: int) -> onnx.ModelProto:
    """A copy of `model` whose first convolution reads the frame in strips of `limit` float bytes.

    `model` has fixed sizes. A graph that begins otherwise stays.
    """
    edit = GraphEdit(model)
    chain = _chain(edit)
    if chain is None:
        return edit.finished()
    height = edit.shapes[chain[-1].output[0]][1]
    count = pieces_for(height, 4 * prod(edit.shapes["image"]) // height, limit)
    if count > 1:
        _cut(edit, chain, count)
    return edit.finished()


def _chain(edit: GraphEdit) -> tuple[onnx.NodeProto, ...] | None:
    """Cast, channels first, subtract, convolve, channels last; None where it is not that."""
    cast = edit.sole_reader("image", "Cast")
    first = cast and edit.sole_reader(cast.output[0], "Transpose")
    mean = first and edit.sole_reader(first.output[0], "Sub")
    conv = mean and edit.sole_reader(mean.output[0], "Conv")
    last = conv and edit.sole_reader(conv.output[0], "Transpose")
    if not (cast and first and mean and conv and last):
        return None
    layouts = [list(attribute(node, "perm")) for node in (first, last)]
    if layouts != [[0, 3, 1, 2], [0, 2, 3, 1]]:
        return None
    # A mean per pixel could not be subtracted from a strip.
    if not edit.is_constant(mean.input[1]) or edit.shapes[mean.input[1]] != (3, 1, 1):
        return None
    if list(attribute(conv, "dilations", [1, 1])) != [1, 1] or attribute(conv, "pads") is None:
        return None
    return cast, first, mean, conv, last


def _cut(edit: GraphEdit, chain: tuple[onnx.NodeProto, ...], count: int) -> None:
    conv, last = chain[3], chain[4]
    kernel = edit.shapes[conv.input[1]][2]
    stride = attribute(conv, "strides", [1, 1])[0]
    top, left, _, right = attribute(conv, "pads")
    height = edit.shapes["image"][1]
    parts = []
    for index, (start, end) in enumerate(even_rows(edit.shapes[last.output[0]][1], count)):
        part = f"rows{index}"
        # In rows of the frame, which begins at 0 and ends at `height`.
        begin, stop = start * stride - top, (end - 1) * stride - top + kernel
        above, below = max(0, -begin), max(0, stop - height)
        values = {"image": edit.rows("image", (begin + above, stop - below), f"frames.{part}")}
        edit.copies(chain[:3], values, part)
        values[conv.output[0]] = edit.copy(conv, values, part, pads=[above, left, below, right])
        parts.append(edit.copy(last, values, part))
    edit.node("Concat", parts, last.output[0], axis=1)
    edit.replace(chain, last)
