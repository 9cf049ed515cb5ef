"""Which file of an engine folder Triton's own backends can run, and as what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.engine.here import GPU_BACKENDS
from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.errors import InputError
from segformer_deploy.serve.names import class_map_type
from segformer_deploy.spec import FrameSize, ModelSpec

USUAL_SIZE = FrameSize(512, 512)


@dataclass(frozen=True)
class NetworkFile:
    """A network for Triton's `tensorrt` or `onnxruntime` backend.

    Attributes:
        source: the file in the engine folder.
        backend, platform, file_name: Triton's words for it.
        gpu: where it runs.
        batch: the largest batch that it takes; None: any.
        usual_size: the network size that it is warmed up with.
        profiles: of a plan: how many ranges of sizes it was built for.
    """

    source: Path
    backend: str
    platform: str
    file_name: str
    gpu: bool
    batch: int | None
    usual_size: FrameSize
    profiles: int = 1

    def output(self, spec: ModelSpec) -> tuple[str, str, list[int]]:
        """Name, NumPy type and dimensions (without the batch's) of what it answers."""
        if spec.output == "class_map":
            return "class_map", class_map_type(spec), [-1, -1]
        return "logits", "float32", [spec.classes, -1, -1]


def network_file(folder: Path, manifest: Manifest, *, gpu: bool | None) -> NetworkFile:
    """The network of an engine folder.

    Args:
        gpu: where the network runs; None: a plan on the GPU, an ONNX file on the CPU.

    Raises InputError where Triton has no backend for it.
    """
    plan = manifest.backend in GPU_BACKENDS
    if plan and manifest.backend != "tensorrt":
        raise InputError(
            f"{folder} was built for {manifest.backend}, which Triton has no backend for",
            "an engine for tensorrt, onnxruntime or native",
            "leave out --network (the front model then runs the engine itself), or build one: "
            f"segdeploy build-engine {folder / 'model.onnx'} --backend tensorrt",
        )
    if plan and gpu is False:
        raise InputError(
            f"{folder} holds a TensorRT plan", "a GPU for it", "leave out --cpu with --network"
        )
    backend, platform = (
        ("tensorrt", "tensorrt_plan") if plan else ("onnxruntime", "onnxruntime_onnx")
    )
    sizes = manifest.sizes
    return NetworkFile(
        source=folder / manifest.engine_files[0],
        backend=backend,
        platform=platform,
        file_name="model.plan" if plan else "model.onnx",
        gpu=plan or bool(gpu),
        batch=None if sizes is None else sizes.batch,
        usual_size=sizes.opt if sizes else manifest.spec.resize.size or USUAL_SIZE,
        profiles=len(manifest.plan.profiles) if manifest.plan else 1,
    )
