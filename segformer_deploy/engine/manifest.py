"""What an engine folder says of itself: `manifest.json`, sealed against edits.

The seal is a SHA-256 over the rest of the file. It is no signature: it tells a changed or
half-written manifest from a finished one, so that nothing is loaded on a false premise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from segformer_deploy.engine.plan_facts import PlanFacts, plan_facts_from_dict
from segformer_deploy.engine.size_range import SizeRange, size_range_from_dict
from segformer_deploy.engine.tiling import MeasuredTiling, measured_tiling_from_dict
from segformer_deploy.errors import EngineFolderError, SpecError
from segformer_deploy.files import sha256_of_file
from segformer_deploy.spec import ModelSpec, Precision

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
HEAD = 4096


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of the folder, and of its first 4096 bytes.

    A file of another size whose beginning is right was cut; with another beginning it is
    another file.
    """

    size: int
    sha256: str
    head_sha256: str = ""

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(path.stat().st_size, sha256_of_file(path), head_of_file(path))

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256, "head_sha256": self.head_sha256}


def head_of_file(path: Path) -> str:
    """The SHA-256 of a file's first 4096 bytes."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEAD)).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        spec: the model, with the resize rule that this engine uses.
        requested, delivered: precision asked for and built.
        backend, backend_version: the library that loads the engine files.
        engine_files: in the order in which they run.
        source_sha256: of the ONNX the engine was built from.
        files: every other file of the folder.
        sizes: the network sizes it takes; None where it takes any.
        plan: of a TensorRT folder: where its plans run, and what memory they need.
        golden: names of (frame, class map) pictures for the check at first load.
        min_agreement: the share of pixels on which that check insists.
        build_seconds: how long the build took.
        verified: on which engine the golden frames were checked at build time.
        built_with: versions and platform, for people.
        notes: what the builder said.
        tiling: the windows that it segments by unless told otherwise; `sizes` are then theirs.
            None where it sees frames whole.
    """

    spec: ModelSpec
    requested: Precision
    delivered: Precision
    backend: str
    backend_version: str
    engine_files: tuple[str, ...]
    source_sha256: str
    files: dict[str, FileRecord]
    golden: tuple[tuple[str, str], ...]
    min_agreement: float
    build_seconds: float
    verified: str
    sizes: SizeRange | None = None
    plan: PlanFacts | None = None
    built_with: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tiling: MeasuredTiling | None = None

    def to_dict(self) -> dict[str, Any]:
        # Left out where there is none, so that older folders keep their seals.
        tiling = {"tiling": self.tiling.to_dict()} if self.tiling else {}
        return {
            "format": MANIFEST_FORMAT,
            "spec": self.spec.to_dict(),
            "requested": self.requested,
            "delivered": self.delivered,
            "backend": self.backend,
            "backend_version": self.backend_version,
            "engine_files": list(self.engine_files),
            "source_sha256": self.source_sha256,
            "files": {name: record.to_dict() for name, record in sorted(self.files.items())},
            "golden": [list(pair) for pair in self.golden],
            "min_agreement": self.min_agreement,
            "build_seconds": self.build_seconds,
            "verified": self.verified,
            "sizes": self.sizes.to_dict() if self.sizes else None,
            "plan": self.plan.to_dict() if self.plan else None,
            "built_with": self.built_with,
            "notes": list(self.notes),
            **tiling,
        }

    def to_json(self) -> str:
        data = self.to_dict()
        data["seal"] = _seal(data)
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @property
    def seal(self) -> str:
        return _seal(self.to_dict())


def _seal(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`; EngineFolderError says what is wrong with it."""
    path = folder / MANIFEST_NAME
    again = "copy the whole folder again, or build it again: segdeploy build-engine"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineFolderError(
            f"{folder} has no {MANIFEST_NAME}", "a complete engine folder", again
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFolderError(f"{path} does not read ({error})", "JSON", again) from error
    if not isinstance(data, dict) or data.get("format") != MANIFEST_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise EngineFolderError(f"{path} has format {found!r}", f"format {MANIFEST_FORMAT}", again)
    seal = data.pop("seal", None)
    if seal != _seal(data):
        raise EngineFolderError(
            f"{path} was changed after the build: its seal does not match its content",
            "the manifest that build-engine wrote",
            again,
        )
    try:
        manifest = _manifest_from_sealed(data)
        _check_kinds(manifest)
        _check_names(manifest)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, SpecError) as error:
        # The seal can be made by anyone; it does not vouch for the fields.
        raise EngineFolderError(
            f"{path} does not read ({type(error).__name__}: {error})",
            "the fields that build-engine writes",
            again,
        ) from error
    return manifest


def _check_kinds(manifest: Manifest) -> None:
    """ValueError or TypeError where a field is of another kind than we write."""
    m = manifest
    texts = (m.backend, m.backend_version, m.source_sha256, m.verified, *m.notes, *m.engine_files)
    strangers = [text for text in (*texts, *m.built_with.values()) if not isinstance(text, str)]
    if strangers:
        raise TypeError(f"{strangers[0]!r} where a text belongs")
    unknown = {m.requested, m.delivered} - set(get_args(Precision))
    if unknown:
        raise ValueError(f"the precision {unknown.pop()!r}")
    if not (0 <= m.min_agreement <= 1 and m.build_seconds >= 0):
        raise ValueError(f"min_agreement {m.min_agreement}, build_seconds {m.build_seconds}")
    if m.plan is not None and not any(letter.isdigit() for letter in m.backend_version):
        raise ValueError(f"the version {m.backend_version!r}")


def _check_names(manifest: Manifest) -> None:
    """ValueError where a name leads out of the folder or to a file that no hash covers."""
    named = [*manifest.engine_files, *(name for pair in manifest.golden for name in pair)]
    for name in (*manifest.files, *named):
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute():
            raise ValueError(f"the file name {name!r}")
    unknown = [name for name in named if name not in manifest.files]
    if unknown or not manifest.engine_files:
        raise ValueError(f"{unknown or 'no engine file'} without a hash")


def _manifest_from_sealed(data: dict[str, Any]) -> Manifest:
    # Folders that were built before there were plans or tiles say nothing of them.
    sizes, plan, tiling = data["sizes"], data.get("plan"), data.get("tiling")
    return Manifest(
        spec=ModelSpec.from_dict(data["spec"]),
        requested=data["requested"],
        delivered=data["delivered"],
        backend=data["backend"],
        backend_version=data["backend_version"],
        engine_files=tuple(data["engine_files"]),
        source_sha256=data["source_sha256"],
        files={
            n: FileRecord(r["size"], r["sha256"], r.get("head_sha256", ""))
            for n, r in data["files"].items()
        },
        golden=tuple((frame, class_map) for frame, class_map in data["golden"]),
        min_agreement=data["min_agreement"],
        build_seconds=data["build_seconds"],
        verified=data["verified"],
        sizes=size_range_from_dict(sizes) if sizes else None,
        plan=plan_facts_from_dict(plan) if plan else None,
        built_with=data["built_with"],
        notes=tuple(data["notes"]),
        tiling=measured_tiling_from_dict(tiling) if tiling else None,
    )
