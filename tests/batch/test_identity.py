"""A batch goes on with the engine that it was begun with, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.batch.folder import STATE
from segformer_deploy.batch.identity import MadeBy
from segformer_deploy.batch.pool import InlinePool
from segformer_deploy.batch.worker import ChunkWorker
from segformer_deploy.engine.fingerprint import engine_hash
from segformer_deploy.errors import EngineError, InputError
from tests.batch.batches import bytes_of, engine_in, go, job_of
from tests.batch.films import film
from tests.little import little_model, write_little_outside


def test_weights_in_another_file_are_part_of_the_engine(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 10), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    engine = write_little_outside(tmp_path / "outside.onnx")
    job = replace(job, settings=replace(job.settings, engine=engine))
    assert go(job).count("done") == 1
    assert go(job).count("already") == 1
    weights, before = tmp_path / "weights.bin", bytes_of(out)
    changed = np.frombuffer(weights.read_bytes(), np.float32) * np.float32(-1)
    weights.write_bytes(changed.tobytes())
    with pytest.raises(InputError, match="engine"):
        go(job)
    assert bytes_of(out) == before
    weights.unlink()
    with pytest.raises(InputError, match=r"weights\.bin, which is part of the engine"):
        go(job)


def test_a_worker_refuses_another_engine_or_version(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    job = job_of(tmp_path, path, out)
    go(job)
    token = json.loads((out / STATE / "batch.json").read_text())["token"]
    here = engine_hash(job.settings.engine)
    ChunkWorker(job.settings, out, token, MadeBy(here)).close()
    with pytest.raises(EngineError, match="is not the one that the batch was begun with"):
        ChunkWorker(job.settings, out, token, MadeBy("0" * 64))
    with pytest.raises(EngineError, match="a worker has segformer-deploy") as caught:
        ChunkWorker(job.settings, out, token, MadeBy(here, "0.0.1"))
    assert "0.0.1" in caught.value.expected


class _Replacing(InlinePool):
    """A pool whose engine is another one when the workers open it."""

    def __init__(self, engine: Path) -> None:
        self._engine = engine

    def run(self, make_worker: Any, tasks: Any) -> Any:
        if type(tasks[0]).__name__ == "ChunkTask":
            model = little_model(weight=-np.eye(3, dtype=np.float32))
            self._engine.write_bytes(model.SerializeToString())
        return super().run(make_worker, tasks)


def test_an_engine_that_is_replaced_while_the_batch_begins(tmp_path: Path) -> None:
    path, out = film(tmp_path / "film.mp4", 20), tmp_path / "out"
    job, engine = job_of(tmp_path, path, out), engine_in(tmp_path)
    before = engine.read_bytes()
    with pytest.raises(EngineError, match="is not the one"):
        go(job, _Replacing(engine))
    assert bytes_of(out) == {}
    engine.write_bytes(before)
    assert go(job).count("done") == 1
