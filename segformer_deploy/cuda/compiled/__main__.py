"""Makes the shipped images again: ``make kernels``, or

::

    python -m segformer_deploy.cuda.compiled --nvrtc FOLDER [--check]

FOLDER holds NVRTC 12.6 and 13.x as pip lays them (requirements/proof.txt). NVRTC gives the same
bytes for the same sources, so that `--check` can compare byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segformer_deploy.cuda.compile import Compiled, Nvrtc, sources_hash
from segformer_deploy.cuda.compiled import FOLDER, INDEX
from segformer_deploy.cuda.nvrtc_library import Version, libraries_under
from segformer_deploy.errors import BackendError, SegdeployError, VerificationError
from segformer_deploy.files import write_bytes, write_text

# A cubin needs a driver of its compiler's major release: JetPack 6 has CUDA 12.6, and what CUDA
# 12.6 knows is compiled by it. The newer ones came with CUDA 13 or shortly before.
OLD, NEW = (12, 6), (13, 5)
CUBINS = {
    OLD: ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90"),
    NEW: ("sm_100", "sm_110", "sm_120"),
}
# Of the older compiler, for a driver refuses PTX of a newer CUDA than its own (error 222).
PTX = "compute_75"


def make(places: Sequence[Path]) -> list[Compiled]:
    """Every image, in the order of the index."""
    found: dict[Version, Nvrtc] = {}
    for place in places:
        for path in libraries_under(place):
            compiler = Nvrtc(path)
            found.setdefault(compiler.version, compiler)
    for wanted in CUBINS:
        if wanted not in found:
            have = ", ".join("{}.{}".format(*version) for version in sorted(found)) or "none"
            raise BackendError(
                "NVRTC {}.{} is not among those given: {}".format(*wanted, have),
                "NVRTC 12.6 and 13.5",
                "pip install --no-deps --target FOLDER -r requirements/proof.txt",
            )
    made = [found[version].compile(one) for version, all_ in CUBINS.items() for one in all_]
    return [*made, found[OLD].compile(PTX, "ptx")]


def file_name(image: Compiled) -> str:
    return f"{image.architecture}.{image.kind}"


def index_of(images: Sequence[Compiled]) -> dict[str, Any]:
    return {
        "sources_sha256": sources_hash(),
        "images": [
            {
                "file": file_name(image),
                "kind": image.kind,
                "architecture": image.architecture,
                "compiler": image.compiler,
                "bytes": len(image.data),
                "sha256": hashlib.sha256(image.data).hexdigest(),
                "kernels": {name: use.to_dict() for name, use in sorted(image.kernels.items())},
            }
            for image in images
        ],
    }


def write(images: Sequence[Compiled], folder: Path = FOLDER) -> None:
    """The images and their index; what is there and no longer made goes."""
    names = {file_name(image) for image in images}
    for path in [*folder.glob("*.cubin"), *folder.glob("*.ptx")]:
        if path.name not in names:
            path.unlink()
    for image in images:
        write_bytes(folder / file_name(image), image.data)
    write_text(folder / INDEX, json.dumps(index_of(images), indent=1) + "\n")


def check(images: Sequence[Compiled], folder: Path = FOLDER) -> None:
    """VerificationError where the folder holds anything else than `images`."""
    wrong = [
        name
        for image in images
        if not (folder / (name := file_name(image))).is_file()
        or (folder / name).read_bytes() != image.data
    ]
    if json.loads((folder / INDEX).read_text("utf-8")) != index_of(images):
        wrong.append(INDEX)
    if wrong:
        raise VerificationError(
            f"not what the sources compile to: {', '.join(wrong)}",
            "the images of the sources beside them",
            "make kernels",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m segformer_deploy.cuda.compiled")
    parser.add_argument("--nvrtc", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)
    try:
        images = make(options.nvrtc)
        (check if options.check else write)(images)
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for image in images:
        worst = max((use.registers for use in image.kernels.values()), default=0)
        spilled = sum(use.spill_stores + use.spill_loads for use in image.kernels.values())
        print(
            f"{file_name(image):15} {len(image.data):6} bytes, NVRTC {image.compiler}, "
            f"at most {worst} registers, {spilled} bytes spilled",
            file=sys.stderr,
        )
    print(f"{sum(len(image.data) for image in images)} bytes in all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
