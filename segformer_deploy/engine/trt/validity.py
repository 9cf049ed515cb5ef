"""What TensorRT-RTX says of a plan's first bytes, before the plan is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.journal import Journal, logger_for
from segformer_deploy.errors import MismatchError

if TYPE_CHECKING:
    import tensorrt_rtx as rtx

_MEANINGS = {
    "VERSION_MISMATCH": "another version of the library built it",
    "UNSUPPORTED_CC": "it was built for another compute capability",
    "OLD_CUDA_DRIVER": "the GPU's driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "its first bytes are not those of a plan",
    "CUDA_ERROR": "CUDA fails on this machine",
}


def check_validity(library: Library, plan: bytes, where: str, rebuild: str) -> str | None:
    """Ask a flavour that can tell; a note where the plan runs, but not at its best.

    Raises MismatchError where the library says that the plan cannot run here.
    """
    if not library.flavour.states_validity:
        return None
    api = library.api
    journal = Journal()
    runtime: rtx.Runtime = api.Runtime(logger_for(api, journal))
    header = plan[: runtime.engine_header_size]
    validity, diagnostics = runtime.get_engine_validity(header)
    del runtime  # now: an exception's traceback would keep it for whoever drops that
    said = [" ".join(text.split())[:300] for text in journal.errors[:1]]
    why = "; ".join(_reasons(api, int(diagnostics)) or said) or "it does not say why"
    if validity == api.EngineValidity.INVALID:
        raise MismatchError(
            f"{library.name} cannot run {where} here: {why}",
            "a plan that is valid on this GPU and driver",
            rebuild,
        )
    if validity == api.EngineValidity.SUBOPTIMAL:
        return f"{library.name} runs {where}, but not at its best here: {why}"
    return None


def _reasons(api: Any, diagnostics: int) -> list[str]:
    kinds = api.EngineInvalidityDiagnostics
    return [text for name, text in _MEANINGS.items() if diagnostics & int(getattr(kinds, name))]
