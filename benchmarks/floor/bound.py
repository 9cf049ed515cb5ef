"""What schedules of a stated kind cannot go below: the bytes alive when the decode head begins.

The decode head needs all four stage outputs, at 8 bits. A stage output is either kept, or made
again row by row while the head runs; making it again needs the keys and values of its blocks,
which come from the whole map and are kept instead. Workspace counts as nothing, and the frame
can be read again as often as it takes. So these are bounds, not schedules.
"""

from __future__ import annotations

from floor.space import LEAN, Space
from segformer_deploy.model.variants import SegformerConfig
from segformer_deploy.spec import FrameSize


def live_bytes(config: SegformerConfig, size: FrameSize, made_again: int = 0) -> int:
    """Bytes alive with the outputs of the first `made_again` stages (0 to 4) not kept."""
    space = Space(config, size, LEAN)
    again, kept = space.stages[:made_again], space.stages[made_again:]
    keys_values = sum(stage.depth * space.key_value(stage).bytes for stage in again)
    return keys_values + sum(space.map(stage).bytes for stage in kept)


def least_live_bytes(config: SegformerConfig, size: FrameSize) -> tuple[int, int]:
    """The smallest of these bounds, and how many stages it makes again."""
    return min((live_bytes(config, size, again), again) for again in range(5))
