"""Little engine folders to package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segformer_deploy.engine.manifest import MANIFEST_NAME, FileRecord, read_manifest
from segformer_deploy.engine.plan_facts import PlanFacts
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.little import little_spec, write_little

SIZES = SizeRange(FrameSize(64, 64), FrameSize(64, 96), FrameSize(128, 192), batch=4)


def little_engine(root: Path, name: str = "little", **spec: Any) -> Path:
    """An engine folder of the little network; `spec`: what differs from `little_spec`."""
    onnx = write_little(root / f"{name}.onnx", little_spec(**spec))
    build_engine(onnx, BuildOptions(output=root / name))
    return root / name


def as_plan(folder: Path, backend: str = "tensorrt", profiles: int = 1) -> Path:
    """`folder`, whose manifest now speaks of a plan; its bytes are none."""
    (folder / "model.plan").write_bytes(b"a plan" * 1000)
    old = read_manifest(folder)
    plan = PlanFacts(("8.9",), "linux x86_64", False, (SIZES,) * profiles, 1, 1, 1)
    new = replace(
        old,
        backend=backend,
        backend_version="10.9.0.34",
        engine_files=("model.plan",),
        files={**old.files, "model.plan": FileRecord.of(folder / "model.plan")},
        sizes=SIZES,
        plan=plan,
    )
    (folder / MANIFEST_NAME).write_text(new.to_json())
    return folder
