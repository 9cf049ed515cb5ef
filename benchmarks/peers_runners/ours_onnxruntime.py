"""segformer_deploy on ONNX Runtime: the exported graph, with our frame path around it."""

from __future__ import annotations

from peers_runners.child import Job, serve
from peers_runners.ours import Ours


def build(job: Job) -> Ours:
    return Ours(job, backend="onnxruntime")


if __name__ == "__main__":
    serve(build)
