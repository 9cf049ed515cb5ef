"""segformer_deploy itself: `Segmenter` on an engine folder that its own commands built."""

from __future__ import annotations

from typing import Any

import numpy as np

from peers_runners.child import STAGES, Job, serve


class Ours:
    def __init__(self, job: Job) -> None:
        from segformer_deploy import Segmenter, __version__

        self._job = job
        # Cameras give BGR, and BGR is what `Segmenter` takes unless told otherwise.
        self._frame = np.ascontiguousarray(np.load(job.frame)[:, :, ::-1])
        self._segmenter = Segmenter(str(job.engine), threads=job.threads)
        self.versions = {"segformer_deploy": str(__version__), "numpy": np.__version__}
        self.note = self._segmenter.engine_name

    def segment(self) -> tuple[Any, dict[str, float]]:
        class_map = self._segmenter(self._frame)
        stages = self._segmenter.last_stages_ms
        return class_map, {stage: float(stages[stage]) for stage in STAGES}

    def logits(self) -> Any | None:
        from segformer_deploy.engine.backend import EngineOptions
        from segformer_deploy.engine.package import load_engine
        from segformer_deploy.runtime.preprocess import prepare

        options = EngineOptions(threads=self._job.threads)
        engine = load_engine(self._job.engine, options).engine
        rule = self._segmenter.spec.resize
        session = engine.session()
        outputs = session.run({"image": prepare(self._frame, rule, pixel_format="bgr")[None]})
        logits = outputs["logits"][0].copy() if "logits" in outputs else None
        session.close()
        engine.close()
        return logits


if __name__ == "__main__":
    serve(Ours)
