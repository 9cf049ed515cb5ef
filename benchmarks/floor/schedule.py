"""Which buffer is alive when: the arena's bytes by arithmetic, before anything runs.

The executor takes its buffers from the lists of this module, in this order, so that the arithmetic
can be held against the arena's high-water mark. A *map* is a stage's tokens [h, w, C] at
8 bits; a block rewrites its map in place, row by row, in two passes:

    attention  keys and values [N', 2C] of the whole block (N' is the reduced sequence), and a
               chunk of `tokens` queries with their scores against all N' keys, 4 bytes each
    Mix-FFN    a ring of 2 rows, because its 3x3 also reads what is already overwritten, and a
               tile of `columns` outputs, for `hidden` of the hidden channels at a time

Stage 1 is either a map like the others, or (`keep_c1=False`) never exists as a whole: its rows
are made again from the frame each time they are needed (the keys and values of its blocks, stage
2's embedding, the decode head), and only keys, values and rings of two or three rows stay.

Not counted, because a device has them elsewhere: weights and constants (flash), the frame
(its rows arrive one at a time: from a sensor, or read again from flash), the class map (its
pixels leave as they are decided), code and stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from floor.arena import bytes_of
from floor.space import LEAN, Plan, Space, Stage
from segformer_deploy.errors import RunError
from segformer_deploy.model.variants import SegformerConfig
from segformer_deploy.spec import FrameSize

_STEPS = (1, 2, 4, 8, 16, 32, 64)
_HIDDEN = (32, 64, 128, 256)


@dataclass(frozen=True)
class Phase:
    """A stretch of the run: what is alive all through it, and its largest workspace, in bytes."""

    name: str
    alive: int
    workspace: int

    @property
    def bytes(self) -> int:
        return self.alive + self.workspace


def phases(space: Space) -> tuple[Phase, ...]:
    """All phases of one frame, in order."""
    parts = _kept(space) if space.plan.keep_c1 else _again(space)
    return tuple(parts)


def arena_bytes(space: Space) -> int:
    """What the arena needs: the largest phase."""
    return max(phase.bytes for phase in phases(space))


def smallest_bytes(config: SegformerConfig, size: FrameSize, *, keep_c1: bool = True) -> int:
    """The arena of the finest cut."""
    return arena_bytes(Space(config, size, replace(LEAN, keep_c1=keep_c1)))


def plan_within(
    config: SegformerConfig, size: FrameSize, budget: int, *, keep_c1: bool = True
) -> Plan:
    """The plan with the fewest kernel calls among those whose arena has at most `budget` bytes.

    Raises:
        RunError: not even the finest cut fits.
    """
    finest = smallest_bytes(config, size, keep_c1=keep_c1)
    if finest > budget:
        raise RunError(
            f"{size} needs {finest} bytes at the least",
            f"at most {budget}",
            "a smaller size" if not keep_c1 else "a smaller size, or keep_c1=False",
        )
    found = [
        plan
        for tokens, columns, hidden in product(_STEPS, _STEPS, _HIDDEN)
        if arena_bytes(Space(config, size, plan := _cut(tokens, columns, hidden, keep_c1)))
        <= budget
    ]
    return min(found, key=_calls)


def _cut(tokens: int, columns: int, hidden: int, keep_c1: bool) -> Plan:
    return Plan(tokens, 16 * tokens, columns, hidden, 32 * tokens, keep_c1)


def _calls(plan: Plan) -> float:
    """In proportion, for stages of about 128 hidden channels; only the order matters."""
    return 60 / plan.tokens + 40 / plan.columns * max(1.0, 128 / plan.hidden)


def _kept(space: Space) -> Iterator[Phase]:
    alive = 0
    for s in space.stages:
        alive += space.map(s).bytes
        window = space.frame_window().bytes if s.index == 0 else 0
        name = f"stage {s.index + 1}"
        yield Phase(f"{name} embedding", alive + window, bytes_of(space.embedding(s)))
        yield from _blocks(space, s, alive)
        yield Phase(f"{name} norm", alive, bytes_of(space.stage_norm(s)))
    yield _decoder(space, alive, 0)


def _blocks(space: Space, s: Stage, alive: int) -> Iterator[Phase]:
    name = f"stage {s.index + 1}"
    attending = alive + space.key_value(s).bytes
    total = space.reduction_sum(s).bytes
    yield Phase(f"{name} keys and values", attending + total, bytes_of(space.reduction(s)))
    yield Phase(f"{name} attention", attending, bytes_of(space.attention(s)))
    yield Phase(f"{name} Mix-FFN", alive + space.ring(s).bytes, bytes_of(space.ffn(s)))


def _pipeline(space: Space, blocks: int, *, whole: bool) -> tuple[int, int]:
    """Bytes alive, and largest workspace, of stage 1's rows after so many blocks."""
    s = space.stages[0]
    alive = space.frame_window().bytes + space.row(s).bytes
    alive += blocks * (space.ring(s).bytes + space.row(s).bytes)
    parts = [space.embedding(s)]
    parts += [space.attention(s), space.ffn(s)] if blocks else []
    parts += [space.stage_norm(s)] if whole else []
    return alive, max(map(bytes_of, parts))


def _again(space: Space) -> Iterator[Phase]:
    first, second, *rest = space.stages
    alive = 0
    for block in range(first.depth):
        alive += space.key_value(first).bytes
        rows, work = _pipeline(space, block, whole=False)
        total = space.reduction_sum(first).bytes
        work = max(work, bytes_of(space.reduction(first)))
        yield Phase(f"stage 1 keys and values {block + 1}", alive + total + rows, work)
    rows, work = _pipeline(space, first.depth, whole=True)
    for s in (second, *rest):
        alive += space.map(s).bytes
        window = rows + space.stage1_window().bytes if s is second else 0
        room = max(work if s is second else 0, bytes_of(space.embedding(s)))
        yield Phase(f"stage {s.index + 1} embedding", alive + window, room)
        yield from _blocks(space, s, alive)
        yield Phase(f"stage {s.index + 1} norm", alive, bytes_of(space.stage_norm(s)))
    yield _decoder(space, alive + rows, work)


def _decoder(space: Space, alive: int, rows: int) -> Phase:
    work = max(rows, bytes_of(space.decoder()), bytes_of(space.class_map()))
    return Phase("decode head", alive + space.logit_rows().bytes, work)
