"""Results as the commands write them, made up; every test says what it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MACHINE = {
    "cpu": "Test CPU", "cores": 4, "memory_mib": 8000.0, "memory_limit_mib": None,
    "load_average": 0.1, "python": "3.11.7", "platform": "Linux-6-test",
    "versions": {"numpy": "2.0", "onnxruntime": "1.30"},
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]


def bench(**changes: Any) -> dict[str, Any]:
    """A `segdeploy bench --json` object; `scale` multiplies its times."""
    scale = changes.pop("scale", 1.0)
    samples = [scale * (10.0 + 0.1 * index) for index in range(20)]
    data: dict[str, Any] = {
        "engine": "build/segformer-b0-fp32", "backend": "native 0.1.0 (CPU, avx2)",
        "device": "cpu", "precision": "fp32", "weights": {"origin": "x", "licence": "y"},
        "size": "512x512", "frame": "480x640", "threads": 2,
        "latency_ms": {"p50": 10.95 * scale, "p90": 11.71 * scale, "p99": 11.9 * scale},
        "stages_ms": {"preprocess": scale, "infer": 9 * scale, "class_map": scale},
        "samples_ms": samples, "runs": 20, "warmup": 3, "first_ms": 30.0,
        "warnings": [], "notes": [], "peak_rss_mib": 100.0, "machine": MACHINE,
        "case": {"variant": "b0"}, "limit": None, "energy": None, "error": None,
    }  # fmt: skip
    return {**data, **changes}


def evaluated(**changes: Any) -> dict[str, Any]:
    """A `segdeploy eval --json` object."""
    data: dict[str, Any] = {
        "engine": "build/segformer-b0-fp32", "precision": "fp32", "miou": 70.0,
        "per_class_iou": {"road": 90.0, "car": 50.0}, "pixel_accuracy": 95.0,
        "mean_class_accuracy": 80.0, "images": 10, "mean_boundary_f": None, "notes": [],
    }  # fmt: skip
    return {**data, **changes}


def estimated(**changes: Any) -> dict[str, Any]:
    """A `segdeploy estimate --json` object: its `error` is no failure."""
    data: dict[str, Any] = {
        "estimated": True, "device": {"name": "Far Board", "slug": "far-board"}, "variant": "b0",
        "size": "512x512", "classes": 150, "precision": "fp16", "engine": "tensorrt",
        "latency_ms": {"estimate": 8.0, "low": 5.0, "high": 15.0},
        "error": {"kind": "Boards", "rows": 6, "boards": 3, "median": 1.2, "p90": 1.7},
        "memory": {"total_bytes": 30 << 20}, "notes": [],
    }  # fmt: skip
    return {**data, **changes}


def write(folder: Path, **objects: Any) -> Path:
    """Each as NAME.json under `folder`; two underscores in a name make a folder."""
    for name, data in objects.items():
        path = folder / (name.replace("__", "/") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data))
    return folder
