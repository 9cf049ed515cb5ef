"""An FP32 graph for one size that runs in a given memory: the fastest of several plans.

What is held to the budget is the whole process as `Segmenter` makes it: Python, OpenCV, the
engine's library, the weights, a frame and its class map. Each plan's peak is estimated from
the graph's live set, to leave out what cannot fit; the first that may fit is really run, in a
process of its own, and its peak is read. No mask changes: see the rewrites for which kind of
exact each is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from segformer_deploy.engine.backend import NATIVE, ONNXRUNTIME
from segformer_deploy.engine.ort import LEAN_KEY, import_onnxruntime
from segformer_deploy.errors import BuildError, SpecError
from segformer_deploy.files import write_bytes
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.memory_trial import Peak, TrialFrame, measure_peak

if TYPE_CHECKING:
    import onnx

MIB = 1 << 20
USUAL, BLOCK, LEAST = "usual", "block", "least"
"""How ONNX Runtime holds values: in its arena; in one block that is laid out at the first
frame; or each for itself, given back to the system after its last use."""
CUTS = ((4 * MIB, MIB), (2 * MIB, MIB // 2))
"""Bytes of the largest map of a piece, in the encoder and in the decoder."""
_NODE_MIB = 0.005
"""What ONNX Runtime keeps for a node beside its weights (measured); pieces are many nodes."""
_RESERVE_MIB = 4.0
"""Of the budget: a folder's first load checks its golden frames, which took 4 (measured)."""


@dataclass(frozen=True)
class LeanPlan:
    """How a graph was made to fit.

    Attributes:
        size: of every frame in the network; None where the graph was left as it was.
        mode: how ONNX Runtime holds values: ``usual``, ``block`` or ``least``.
        cut: bytes of the largest map of a piece, in the encoder and in the decoder; None: whole.
        exact: ``bits``, or ``algebra`` where a row of the decoder is mixed in another order.
        difference: the largest difference of a logit from the graph as it was; 0 where bits.
        live_bytes: the largest live set, by count.
        peak: as measured.
    """

    size: FrameSize | None
    mode: str
    cut: tuple[int, int] | None
    exact: str
    difference: float
    live_bytes: int
    peak: Peak

    def note(self) -> str:
        """One sentence for a manifest."""
        how = "as it is" if self.cut is None else f"cut into pieces ({self.exact}), {self.mode}"
        where = f" at {self.size} and no other size" if self.size else ""
        return f"the graph {how}{where}: {self.peak.peak_mib:.1f} MiB measured, whole process"


@dataclass(frozen=True)
class _Candidate:
    mode: str
    cut: tuple[int, int] | None
    model: onnx.ModelProto
    live_bytes: int
    estimate: float

    @property
    def name(self) -> str:
        if self.cut is None:
            return "as it is"
        encoder, decoder = (f"{nbytes / MIB:g}" for nbytes in self.cut)
        return f"pieces of {encoder} MiB, the decoder's of {decoder}, {self.mode}"


def lean_graph(
    onnx: Path,
    out: Path,
    size: FrameSize,
    budget: int,
    *,
    backend: str = ONNXRUNTIME,
    tiled: TrialFrame | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> LeanPlan:
    """Write to `out` the fastest form of `onnx` that segments a frame within `budget` bytes.

    Args:
        onnx: an exported FP32 graph with logits.
        size: of every frame in the network, and of the frames that are tried; a larger camera
            frame adds 3 bytes per pixel for itself and 1 or 4 for its class map.
        backend: ``onnxruntime``, or ``native``, whose graph is copied and only measured.
        tiled: the frame that is tried, of which `size` is a window; None: one of `size`.

    Raises:
        OnnxFileError: not such a graph.
        SpecError: a budget of nothing, or another backend.
        BuildError: nothing fits, naming the least that was reached.
        RunError: a trial process fails.
        VerificationError: the cut graph's logits are not the graph's.
    """
    import onnx as onnx_library

    from segformer_deploy.graph.metadata import fp32_spec

    if budget <= 0 or backend not in (ONNXRUNTIME, NATIVE):
        raise SpecError(f"{budget} bytes on {backend}", f"1 or more, on {ONNXRUNTIME} or {NATIVE}")
    source = onnx_library.load(str(onnx))
    fp32_spec(source)
    allowed = budget / MIB - _RESERVE_MIB
    tried: list[tuple[str, float]] = []
    left_out: list[_Candidate] = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model.onnx"
        for plan in _plans(source, size, backend, trial, tiled):
            if plan.estimate > allowed:
                say(f"{plan.name}: about {plan.estimate:.0f} MiB (estimated), not tried")
                left_out.append(plan)
                continue
            found = _tried(onnx, plan, trial, size, backend, tiled)
            say(f"{plan.name}: {found.peak_mib:.1f} MiB")
            tried.append((plan.name, found.peak_mib))
            if found.peak_mib <= allowed:
                return _kept(source, plan, found, trial, out, size)
        if left_out:  # so that the error can say what would do
            plan = min(left_out, key=lambda one: one.estimate)
            tried.append((plan.name, _tried(onnx, plan, trial, size, backend, tiled).peak_mib))
    raise _nothing_fits(size, budget, backend, tried, by_tiles=tiled is not None)


def _tried(
    onnx: Path,
    plan: _Candidate,
    trial: Path,
    size: FrameSize,
    backend: str,
    tiled: TrialFrame | None,
) -> Peak:
    """What a process with this plan takes; its graph is left at `trial`."""
    write_bytes(trial, plan.model.SerializeToString() if plan.cut else onnx.read_bytes())
    if tiled is not None:
        return measure_peak(trial, tiled.size, backend, tiling=tiled.tiling)
    return measure_peak(trial, size, backend)


def _kept(
    source: onnx.ModelProto, plan: _Candidate, peak: Peak, trial: Path, out: Path, size: FrameSize
) -> LeanPlan:
    """Hold the plan's graph against `source`, and write it."""
    compared = _compared(source, plan, size)
    write_bytes(out, trial.read_bytes())
    fixed = size if plan.cut else None
    return LeanPlan(fixed, plan.mode, plan.cut, *compared, plan.live_bytes, peak)


def _plans(
    source: onnx.ModelProto,
    size: FrameSize,
    backend: str,
    trial: Path,
    tiled: TrialFrame | None,
) -> Iterator[_Candidate]:
    """From the fastest to the smallest; estimates are made when their turn comes."""
    from segformer_deploy.graph.live_set import live_set

    yield _Candidate(USUAL, None, source, 0, 0.0)
    if backend == NATIVE:
        return
    import_onnxruntime()
    fixed = _fixed(source, size)
    write_bytes(trial, fixed.SerializeToString())
    resting = measure_peak(trial, size, backend, runs=0).loaded_mib
    logits = 4 * prod(d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim)
    cuts = [(cut, _cut(fixed, cut)) for cut in CUTS]
    for mode in (BLOCK, LEAST):
        for cut, model in cuts:
            _mark(model, mode)
            live = live_set(model).peak_bytes
            nodes = len(model.graph.node) - len(fixed.graph.node)
            # The block keeps room for all but the logits, which lie beside it.
            held = live + (logits if mode == BLOCK else 0)
            picture = 3 * tiled.size.pixels if tiled else 0  # cut into windows, and kept
            estimate = resting + _NODE_MIB * nodes + (held + picture) / MIB
            yield _Candidate(mode, cut, model, live, estimate)


def least_graph(source: onnx.ModelProto, size: FrameSize) -> onnx.ModelProto:
    """The smallest of the plans, whatever it takes: no process is run and nothing compared."""
    model = _cut(_fixed(source, size), CUTS[-1])
    _mark(model, LEAST)
    return model


def _fixed(source: onnx.ModelProto, size: FrameSize) -> onnx.ModelProto:
    from segformer_deploy.graph.chunk_fixed_size import fix_size
    from segformer_deploy.graph.metadata import fp32_spec, write_spec

    fixed = fix_size(source, size)
    write_spec(fixed, fp32_spec(source).stretched_to(size))
    _mark(fixed, LEAST)
    return fixed


def _cut(fixed: onnx.ModelProto, cut: tuple[int, int]) -> onnx.ModelProto:
    from segformer_deploy.graph.chunk_attention import chunk_attention
    from segformer_deploy.graph.chunk_ffn import chunk_ffn
    from segformer_deploy.graph.strips_decoder import strip_decoder
    from segformer_deploy.graph.strips_embed import strip_embedding

    encoder, decoder = cut
    model = chunk_attention(chunk_ffn(fixed, encoder), encoder)
    return strip_decoder(strip_embedding(model, encoder), decoder)


def _mark(model: onnx.ModelProto, mode: str) -> None:
    """Say in the metadata how ONNX Runtime is to run this graph; replaces what was said."""
    kept = [one for one in model.metadata_props if one.key != LEAN_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=LEAN_KEY, value=mode)


def _compared(source: onnx.ModelProto, plan: _Candidate, size: FrameSize) -> tuple[str, float]:
    """(which kind of exact, the largest difference of a logit) of the cut graph."""
    if plan.cut is None:
        return "bits", 0.0
    from segformer_deploy.graph.chunk_fixed_size import fix_size
    from segformer_deploy.graph.strips_decoder import TOLERANCE, is_exact_to_the_bit
    from segformer_deploy.graph.verify import verify_against

    exact = "bits" if is_exact_to_the_bit(fix_size(source, size)) else "algebra"
    session = import_onnxruntime().InferenceSession(
        source.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    report = verify_against(
        plan.model,
        lambda frames: session.run(["logits"], {"image": frames})[0],
        [(1, size.height, size.width)],
        tolerance=TOLERANCE,
    )
    return exact, report.max_abs_diff


def _nothing_fits(
    size: FrameSize,
    budget: int,
    backend: str,
    tried: list[tuple[str, float]],
    *,
    by_tiles: bool,
) -> BuildError:
    name, least = min(tried, key=lambda pair: pair[1])
    other = f", or --backend {NATIVE}" if backend != NATIVE else ""
    tiles = "a smaller --tile" if by_tiles else "--tile HxW, which changes masks"
    return BuildError(
        f"at {size} on {backend} the whole process takes {least:.1f} MiB at least ({name})",
        f"at most {budget / MIB:.0f} MiB, with {_RESERVE_MIB:g} to spare",
        f"ask for --max-memory {int(least + _RESERVE_MIB) + 1}M, for a smaller --opt, or for "
        f"{tiles}{other}",
    )
