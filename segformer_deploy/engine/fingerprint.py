"""Which engine it is: the hash of its bytes, those of weights beside an ONNX file included."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from segformer_deploy import files
from segformer_deploy.engine.protobuf import MalformedError, as_message, as_text, fields
from segformer_deploy.errors import InputError

# onnx.proto: the field numbers on the way from ModelProto to each TensorProto, by message.
_WAYS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL = 13  # TensorProto.external_data: pairs of strings (1: key, 2: value)


def engine_hash(engine: Path) -> str:
    """The SHA-256 of an engine.

    Of a file's bytes, with the names and bytes of the files that its weights lie in; or of a
    folder's file names and their bytes.

    Raises:
        InputError: there is no such engine, or a file that its weights lie in is missing.
    """
    if engine.is_file():
        own, outside = files.sha256_of_file(engine), external_files(engine)
        if not outside:
            return own
        digest = hashlib.sha256(own.encode())
        return _hashed(digest, {name: engine.parent / name for name in outside})
    if not engine.is_dir():
        raise InputError(f"no such engine: {engine}", "an engine folder or .onnx file")
    inside = {path.relative_to(engine).as_posix(): path for path in sorted(engine.rglob("*"))}
    return _hashed(hashlib.sha256(), {n: path for n, path in inside.items() if path.is_file()})


def _hashed(digest: hashlib._Hash, named: dict[str, Path]) -> str:
    for name, path in named.items():
        try:
            own = files.sha256_of_file(path)
        except OSError as error:
            raise InputError(
                f"cannot read {path}, which is part of the engine: {error.strerror}",
                "an engine with all its files",
                "copy it there, or export the engine again",
            ) from error
        digest.update(f"{name}\0{own}\0".encode(errors="replace"))
    return digest.hexdigest()


def external_files(onnx: Path) -> list[str]:
    """The files that weights of an ONNX file lie in, as it names them, sorted; none of others."""
    if onnx.suffix != ".onnx" or not onnx.stat().st_size:
        return []
    with onnx.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return sorted(set(_locations(data, "model")))
    except (MalformedError, ValueError):  # it does not load either, which says more
        return []


def _locations(data: memoryview, kind: str) -> Iterator[str]:
    for number, value in fields(data):
        if kind == "tensor":
            if number == _EXTERNAL:
                pair = {n: as_text(text) for n, text in fields(as_message(value))}
                if pair.get(1) == "location":
                    yield pair.get(2, "")
        elif number in _WAYS[kind]:
            yield from _locations(as_message(value), _WAYS[kind][number])
