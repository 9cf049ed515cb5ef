"""What an engine folder says of itself: `manifest.json`, sealed against edits.

The seal is a SHA-256 over the rest of the file. It is no signature: it tells a changed or
half-written manifest from a finished one, so that nothing is loaded on a false premise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from segformer_deploy.errors import EngineFolderError, FrameError, SpecError
from segformer_deploy.files import sha256_of_file
from segformer_deploy.spec import FrameSize, ModelSpec, Precision

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of the folder."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(path.stat().st_size, sha256_of_file(path))


@dataclass(frozen=True)
class SizeRange:
    """Network sizes an engine takes: smallest, the one it is tuned for, largest; and the batch."""

    min: FrameSize
    opt: FrameSize
    max: FrameSize
    batch: int = 1

    def __post_init__(self) -> None:
        heights = self.min.height, self.opt.height, self.max.height
        widths = self.min.width, self.opt.width, self.max.width
        if sorted(heights) != list(heights) or sorted(widths) != list(widths):
            raise SpecError(
                f"sizes min {self.min}, opt {self.opt}, max {self.max}",
                "min <= opt <= max, in height and in width",
            )
        if self.batch < 1:
            raise SpecError(f"batch {self.batch}", "1 or more")

    def check(self, size: FrameSize, batch: int) -> None:
        """FrameError where `size` or `batch` lies outside."""
        fits = (
            self.min.height <= size.height <= self.max.height
            and self.min.width <= size.width <= self.max.width
        )
        if not fits:
            raise FrameError(
                f"network size {size}",
                f"{self.min} to {self.max}, which this engine was built for",
                f"segdeploy build-engine --min {_smaller(self.min, size)} "
                f"--max {_larger(self.max, size)}",
            )
        if batch > self.batch:
            raise FrameError(
                f"a batch of {batch} frames",
                f"at most {self.batch}, which this engine was built for",
                f"segdeploy build-engine --batch {batch}",
            )


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
        golden: names of (frame, class map) pictures for the check at first load.
        min_agreement: the share of pixels on which that check insists.
        build_seconds: how long the build took.
        verified: on which engine the golden frames were checked at build time.
        built_with: versions and platform, for people.
        notes: what the builder said.
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
    built_with: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "format": MANIFEST_FORMAT,
            "spec": self.spec.to_dict(),
            "requested": self.requested,
            "delivered": self.delivered,
            "backend": self.backend,
            "backend_version": self.backend_version,
            "engine_files": list(self.engine_files),
            "source_sha256": self.source_sha256,
            "files": {
                name: {"size": record.size, "sha256": record.sha256}
                for name, record in sorted(self.files.items())
            },
            "golden": [list(pair) for pair in self.golden],
            "min_agreement": self.min_agreement,
            "build_seconds": self.build_seconds,
            "verified": self.verified,
            "sizes": {
                "min": str(sizes.min),
                "opt": str(sizes.opt),
                "max": str(sizes.max),
                "batch": sizes.batch,
            }
            if sizes
            else None,
            "built_with": self.built_with,
            "notes": list(self.notes),
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


def _smaller(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(min(a.height, b.height), min(a.width, b.width))


def _larger(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(max(a.height, b.height), max(a.width, b.width))


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
    except (OSError, ValueError) as error:
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
        _check_names(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The seal can be made by anyone; it does not vouch for the fields.
        raise EngineFolderError(
            f"{path} does not read ({type(error).__name__}: {error})",
            "the fields that build-engine writes",
            again,
        ) from error
    return manifest


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
    sizes = data["sizes"]
    return Manifest(
        spec=ModelSpec.from_dict(data["spec"]),
        requested=data["requested"],
        delivered=data["delivered"],
        backend=data["backend"],
        backend_version=data["backend_version"],
        engine_files=tuple(data["engine_files"]),
        source_sha256=data["source_sha256"],
        files={n: FileRecord(r["size"], r["sha256"]) for n, r in data["files"].items()},
        golden=tuple((frame, class_map) for frame, class_map in data["golden"]),
        min_agreement=data["min_agreement"],
        build_seconds=data["build_seconds"],
        verified=data["verified"],
        sizes=SizeRange(
            FrameSize.parse(sizes["min"]),
            FrameSize.parse(sizes["opt"]),
            FrameSize.parse(sizes["max"]),
            sizes["batch"],
        )
        if sizes
        else None,
        built_with=data["built_with"],
        notes=tuple(data["notes"]),
    )
