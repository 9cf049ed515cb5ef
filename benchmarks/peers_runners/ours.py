"""segformer_deploy itself: `Segmenter` on an engine folder that its own commands built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peers_runners.child import STAGES, Job, serve
from segformer_deploy import Segmenter, __version__
from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.engine.package import load_engine
from segformer_deploy.engine.session import Engine
from segformer_deploy.runtime.preprocess import prepare


class Ours:
    """Our frame path around the backend that the folder was built for, or around another.

    Args:
        backend: as `EngineOptions` takes it.
        engine_of: makes an engine of its own from the ONNX file, for libraries that the package
            has no backend for.
    """

    def __init__(
        self,
        job: Job,
        backend: str = "auto",
        engine_of: Callable[[Path, Job], Engine] | None = None,
    ) -> None:
        # Cameras give BGR, and BGR is what `Segmenter` takes unless told otherwise.
        self._frame = np.ascontiguousarray(np.load(job.frame)[:, :, ::-1])
        loaded = load_engine(job.engine, EngineOptions(backend=backend, threads=job.threads))
        self._engine = loaded.engine
        if engine_of is not None:
            assert loaded.manifest is not None
            loaded.engine.close()
            self._engine = engine_of(job.engine / loaded.manifest.engine_files[0], job)
        self._segmenter = Segmenter(self._engine, spec=loaded.spec, threads=job.threads)
        self.versions = {"segformer_deploy": str(__version__), "numpy": np.__version__}
        self.note = self._engine.name

    def segment(self) -> tuple[Any, dict[str, float]]:
        class_map = self._segmenter(self._frame)
        stages = self._segmenter.last_stages_ms
        return class_map, {stage: float(stages[stage]) for stage in STAGES}

    def logits(self) -> Any | None:
        session = self._engine.session()
        image = prepare(self._frame, self._segmenter.spec.resize, pixel_format="bgr")[None]
        logits = session.run({"image": image})["logits"][0].copy()
        session.close()
        return logits


if __name__ == "__main__":
    serve(Ours)
