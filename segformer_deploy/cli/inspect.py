"""segdeploy inspect: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import Json, emit, say, table, warn_if_random
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.engine.manifest import Manifest
    from segformer_deploy.engine.plan_facts import PlanFacts
    from segformer_deploy.spec import ModelSpec


_MOST_LAYERS = 12


def command(
    path: Annotated[Path, typer.Argument(help="An .onnx file or an engine folder.")],
    json: Json = False,
) -> None:
    """Say what an ONNX file or an engine folder is: model, classes, sizes, precision, origin.

    Needs no engine library, neither torch nor onnx; a folder is checked file by file.

    Example:  segdeploy inspect build/segformer-b0-fp32
    """
    try:
        found, folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", "a path that this user may read"
        ) from error
    if not found:
        raise InputError(f"{path} does not exist", "an .onnx file or an engine folder")
    data = _folder_facts(path) if folder else _onnx_facts(path)
    spec = data.pop("_spec")
    warn_if_random(spec)
    hidden = ("spec", "path", "layers")
    rows = [[key, _cell(key, value)] for key, value in data.items() if key not in hidden]
    table(str(path), ["", "value"], rows)
    if data.get("layers"):
        _show_layers(data["layers"])
    say("classes: " + _short(spec.class_names))
    if json:
        emit(data)


def _spec_facts(spec: ModelSpec) -> dict[str, Any]:
    weights = spec.weights
    return {
        "variant": spec.variant,
        "classes": spec.classes,
        "precision": spec.precision,
        "output": spec.output,
        "resize": str(spec.resize),
        "weights": "random" if weights.random else weights.origin,
        "licence": weights.licence,
        "spec": spec.to_dict(),
        "_spec": spec,
    }


def _onnx_facts(path: Path) -> dict[str, Any]:
    from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx

    header = read_onnx_header(path)
    return {
        "kind": "onnx",
        "path": str(path),
        "bytes": path.stat().st_size,
        "opset": header.opset,
        "ir_version": header.ir_version,
        "producer": header.producer,
        "nodes": header.node_count,
        "inputs": {t.name: [t.dtype, list(t.shape)] for t in header.inputs},
        "outputs": {t.name: [t.dtype, list(t.shape)] for t in header.outputs},
        **_spec_facts(spec_from_onnx(path)),
    }


def _folder_facts(path: Path) -> dict[str, Any]:
    from segformer_deploy.engine.package import check_folder

    manifest = check_folder(path)
    border = _borders(path, manifest)
    return {
        "kind": "engine",
        "path": str(path),
        "bytes": sum(record.size for record in manifest.files.values()),
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "requested": manifest.requested,
        "delivered": manifest.delivered,
        **border,
        "sizes": str(manifest.sizes) if manifest.sizes else "any",
        **({"tiling": str(manifest.tiling)} if manifest.tiling else {}),
        **(_plan_facts(path, manifest.plan) if manifest.plan else {}),
        "verified": manifest.verified,
        "golden_frames": len(manifest.golden),
        "build_seconds": manifest.build_seconds,
        "built_with": manifest.built_with,
        "notes": list(manifest.notes),
        **_spec_facts(manifest.spec),
    }


def _borders(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Inputs and outputs of the graph in the folder, which are those of its plan."""
    from segformer_deploy.engine.here import SOURCE_FILE
    from segformer_deploy.engine.onnx_file import read_onnx_header

    if SOURCE_FILE not in manifest.files:
        return {}
    header = read_onnx_header(path / SOURCE_FILE)
    return {
        "inputs": {t.name: [t.dtype, list(t.shape)] for t in header.inputs},
        "outputs": {t.name: [t.dtype, list(t.shape)] for t in header.outputs},
    }


def _plan_facts(path: Path, plan: PlanFacts) -> dict[str, Any]:
    from json import loads

    from segformer_deploy.workflow.plan import LAYERS_FILE

    layers = path / LAYERS_FILE
    return {
        "profiles": [str(profile) for profile in plan.profiles],
        "runs_on": list(plan.runs_on),
        "system": plan.system,
        **plan.memory(),
        "bypassed": list(plan.bypassed),
        "options": plan.options,
        "plan_seconds": plan.seconds,
        "layers": loads(layers.read_text(encoding="utf-8")) if layers.is_file() else [],
    }


def _show_layers(layers: list[dict[str, str]]) -> None:
    """The first of a plan's layers; all of them are in --json."""
    shown = [[one["name"][:60], one["kind"], one["outputs"][:60]] for one in layers[:_MOST_LAYERS]]
    more = f", the first {_MOST_LAYERS}" if len(layers) > _MOST_LAYERS else ""
    table(f"layers of the plan: {len(layers)}{more}", ["name", "kind", "outputs"], shown)


def _cell(key: str, value: Any) -> str:
    if key.endswith("bytes"):
        return f"{value} ({value / 1e6:.2f} MB)"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        text = ", ".join(map(str, value[:20]))
        return text + (f", … ({len(value)})" if len(value) > 20 else "")
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_border(facts)}" for name, facts in value.items())
    return str(value)


def _border(facts: Any) -> str:
    """A tensor as people write it: ``uint8 [*, *, *, 3]``, a star for a free dimension."""
    if not isinstance(facts, list):
        return str(facts)
    dtype, shape = facts
    return f"{dtype} [{', '.join('*' if size is None else str(size) for size in shape)}]"
