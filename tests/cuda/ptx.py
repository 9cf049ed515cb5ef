"""Runs the PTX that NVRTC makes of our kernels, on a CPU: one NumPy lane per thread of the grid.

Lanes diverge at branches; of those not waiting at a barrier, the ones furthest behind go first,
so that they meet again where the paths do. What a GPU might do silently is an error here: an
access outside of the arrays that were handed over, a race, a read of what nobody wrote, an
instruction that ptxas may round otherwise, a loop without an end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.cuda.ptx_lanes import Frame, Launch
from tests.cuda.ptx_memory import FaultError, Lanes, Memory
from tests.cuda.ptx_steps import Step, step_of
from tests.cuda.ptx_text import Instruction, Kernel, Operand, PtxError, Symbol

_NOT_NOW = np.iinfo(np.int32).max
MOST_STEPS = 2_000_000


@dataclass
class _Piece:
    """Instructions that run in one go, `first` to `last`; the last one may branch."""

    steps: list[tuple[Instruction, Step]]
    end: Instruction | None
    after: int


class Program:
    """A kernel, made ready to run."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._pieces: dict[int, _Piece] = {}

    def run(
        self,
        grid: tuple[int, int, int],
        block: int,
        parameters: bytes,
        memory: Memory,
        *,
        most_steps: int = MOST_STEPS,
    ) -> int:
        """Run every thread to its end; the number of steps that took.

        Raises:
            PtxError: naming the kernel, the instruction and a thread.
        """
        launch = Launch(self.kernel, grid, block, parameters, memory)
        end = len(self.kernel.instructions)
        counters = np.zeros(len(launch.threads), np.int32)
        waiting = np.full(len(launch.threads), _NOT_NOW, np.int32)
        steps = 0
        with np.errstate(all="ignore"):
            while True:
                at = int(counters.min())
                if at == _NOT_NOW:
                    if not (waiting != _NOT_NOW).any():
                        return steps
                    self._release(launch, counters, waiting)
                    continue
                lanes = np.flatnonzero(counters == at)
                if at >= end:
                    counters[lanes] = _NOT_NOW
                    continue
                piece = self._piece(at)
                steps += len(piece.steps) + 1
                if steps > most_steps:
                    raise PtxError(f"{self.kernel.name}: no end after {most_steps} steps")
                self._go(launch, piece, lanes, counters, waiting)

    def _release(self, launch: Launch, counters: Lanes, waiting: Lanes) -> None:
        """Everyone who is not at a barrier has ended, so every block may pass it."""
        there = waiting != _NOT_NOW
        for block in np.unique(launch.room[there]):
            places = np.unique(waiting[there & (launch.room == block)])
            if len(places) > 1:
                raise PtxError(f"{self.kernel.name}: a block waits at {len(places)} barriers")
        counters[there] = waiting[there]
        waiting[:] = _NOT_NOW
        launch.shared.forget()

    def _go(
        self, launch: Launch, piece: _Piece, lanes: Lanes, counters: Lanes, waiting: Lanes
    ) -> None:
        frame = Frame(launch, lanes)
        for instruction, step in piece.steps:
            self._try(launch, frame, instruction, step)
        frame.leave()
        counters[lanes] = piece.after
        end = piece.end
        if end is None:
            return
        if end.guard:
            guard = frame.get(end.guard) != end.negated
            lanes = lanes[guard]
        if end.parts[0] == "bra":
            (target,) = end.operands
            counters[lanes] = self._target(target)
        elif end.parts[0] in ("ret", "exit"):
            counters[lanes] = _NOT_NOW
        elif end.parts[0] in ("bar", "barrier"):
            waiting[lanes] = piece.after
            counters[lanes] = _NOT_NOW
        elif len(lanes):
            # A guarded instruction: only those lanes do it.
            some = Frame(launch, lanes)
            plain = Instruction(end.text, end.parts, end.operands)
            self._try(launch, some, end, step_of(self.kernel, plain))
            some.leave()

    def _try(self, launch: Launch, frame: Frame, instruction: Instruction, step: Step) -> None:
        try:
            step(frame)
        except FaultError as fault:
            who = launch.name_of(int(frame.threads[fault.lane]))
            where = f"{self.kernel.name}: {instruction.text}: {who}"
            raise PtxError(f"{where}: {fault}") from None
        except PtxError as error:
            raise PtxError(f"{self.kernel.name}: {instruction.text}: {error}") from None

    def _target(self, target: Operand) -> int:
        if not isinstance(target, Symbol) or target.name not in self.kernel.labels:
            raise PtxError(f"{self.kernel.name}: no label {target}")
        return self.kernel.labels[target.name]

    def _piece(self, at: int) -> _Piece:
        if at not in self._pieces:
            self._pieces[at] = self._cut(at)
        return self._pieces[at]

    def _cut(self, at: int) -> _Piece:
        starts = set(self.kernel.labels.values())
        steps: list[tuple[Instruction, Step]] = []
        instructions = self.kernel.instructions
        for index in range(at, len(instructions)):
            one = instructions[index]
            if index > at and index in starts:
                return _Piece(steps, None, index)
            if one.guard or one.parts[0] in ("bra", "ret", "exit", "bar", "barrier"):
                if one.parts[0] in ("bar", "barrier") and one.parts[:2] != ("bar", "sync"):
                    raise PtxError(f"{self.kernel.name}: unknown instruction: {one.text}")
                return _Piece(steps, one, index + 1)
            steps.append((one, step_of(self.kernel, one)))
        return _Piece(steps, None, len(instructions))
