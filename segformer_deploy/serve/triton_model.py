"""The front model: what Triton's Python backend runs for each instance.

A packaged `model.py` imports `TritonPythonModel` from here. The server hands it all requests of a
batch at once; it decodes what has to be decoded and segments frames of one network size together.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.errors import InputError, SegdeployError
from segformer_deploy.serve.bls import BlsEngine
from segformer_deploy.serve.dlpack import Lent
from segformer_deploy.serve.earlier import read_record
from segformer_deploy.serve.names import CLASS_MAP, ENGINE_FOLDER
from segformer_deploy.serve.requests import asked_of
from segformer_deploy.serve.together import segment_together

if TYPE_CHECKING:
    from segformer_deploy.engine.session import Array
    from segformer_deploy.engine.size_range import SizeRange
    from segformer_deploy.runtime.segmenter import Segmenter

BACKEND_MODULE = "triton_python_backend_utils"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class TritonPythonModel:
    """One instance; the server calls each method from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; where that fails the server shows our message and does not serve it."""
        self._pb = importlib.import_module(BACKEND_MODULE)
        self._allowed: SizeRange | None = None
        try:
            self._segment = self._opened(args)
        except SegdeployError as error:
            raise self._pb.TritonModelException(str(error)) from error
        self._log(f"{args['model_instance_name']}: {self._segment.engine_name}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer or an error for each request, in order."""
        asked = [asked_of(self._pb, request) for request in requests]
        answers = segment_together(
            self._segment,  # type: ignore[arg-type]
            asked,
            self._allowed,
            self._pb.Logger.log_error,
        )
        return [self._response(answer) for answer in answers]

    def finalize(self) -> None:
        """The server unloads this instance."""
        self._segment.close()

    def _response(self, answer: Array | SegdeployError) -> Any:
        pb = self._pb
        if isinstance(answer, SegdeployError):
            code = pb.TritonError.INVALID_ARG if _is_clients(answer) else pb.TritonError.INTERNAL
            return pb.InferenceResponse(error=pb.TritonError(str(answer), code))
        return pb.InferenceResponse([pb.Tensor.from_dlpack(CLASS_MAP, Lent(answer))])

    def _opened(self, args: dict[str, str]) -> Segmenter:
        from segformer_deploy.engine.cores import usable_cores
        from segformer_deploy.runtime.segmenter import Segmenter

        config = json.loads(args["model_config"])
        instances = sum(group["count"] for group in config["instance_group"])
        threads = max(1, usable_cores() // max(1, instances))
        version = Path(args["model_repository"]) / args["model_version"]
        record = read_record(version)
        if record["network"] is not None:
            return self._over_network(record, threads, int(args["model_version"]))
        gpu = args["model_instance_kind"] == "GPU"
        if gpu:
            _choose_gpu(int(args["model_instance_device_id"]))
        provider = "cuda" if gpu and not record["engine"]["plan"] else "cpu"
        return Segmenter(version / ENGINE_FOLDER, threads=threads, provider=provider)

    def _over_network(self, record: dict[str, Any], threads: int, version: int) -> Segmenter:
        from segformer_deploy.engine.size_range import size_range_from_dict
        from segformer_deploy.runtime.segmenter import Segmenter

        sizes, spec = record["engine"].get("sizes"), record["spec"]
        self._allowed = size_range_from_dict(sizes) if sizes else None
        engine = BlsEngine(self._pb, record["network"], spec, version)
        return Segmenter(engine, spec=spec, threads=threads, device="cpu")

    def _log(self, text: str) -> None:
        self._pb.Logger.log_info(text)


def _is_clients(error: SegdeployError) -> bool:
    """Whether the request is at fault: clients show that one, and do not send it again."""
    return isinstance(error, InputError)


def _choose_gpu(index: int) -> None:
    """Show this process the one GPU of its instance, before CUDA starts in it."""
    names = os.environ.get(_VISIBLE)
    given = [name.strip() for name in names.split(",")] if names else []
    os.environ[_VISIBLE] = given[index] if index < len(given) else str(index)
