"""One call of a batch on a Ray cluster, as a process that `batch_faults.py` may kill.

A JSON object a line on stdout: {step, done, total, at} as it goes on, {report} at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segformer_deploy.batch.ray_pool import RayPool
from segformer_deploy.batch.run import BatchJob, run_batch
from segformer_deploy.batch.settings import BatchSettings
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize

# Small, so that some hundred frames on two cores are a matter of a minute.
ENGINE_SIZE = FrameSize(256, 384)
CHUNK_SECONDS = 0.8


def batch_settings() -> BatchSettings:
    """The shipped demo model, a thread for each worker, all three kinds of results."""
    model = shipped_file(ONNX_FILE)
    if model is None:
        raise SystemExit("this installation has no shipped model")
    return BatchSettings(
        model,
        size=ENGINE_SIZE,
        threads=1,
        masks=True,
        parquet=True,
        chunk_seconds=CHUNK_SECONDS,
    )


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("output", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()

    def on_progress(step: str, done: int, total: int) -> None:
        _tell(step=step, done=done, total=total, at=time.perf_counter())

    with RayPool(options.address, options.workers, num_cpus=1) as pool:
        report = run_batch(
            BatchJob(options.source, options.output, batch_settings()), pool, on_progress
        )
    _tell(
        report={
            "seconds": report.seconds,
            "retries": report.retries,
            "states": dict(Counter(one.state for one in report.items)),
            "segmented": sum(one.segmented for one in report.items),
            "chunks": sum(one.chunks for one in report.items),
            "errors": [one.error for one in report.items if one.error],
        }
    )


if __name__ == "__main__":
    main()
