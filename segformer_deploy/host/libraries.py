"""The Python libraries that matter here: which versions, from where, and which are broken.

Versions come from the records that pip and Debian's packages keep. A library is imported only
where those say nothing (a JetPack OpenCV) or where nothing else answers (ONNX Runtime's
providers); torch and onnx never are: the edge side works without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal

from segformer_deploy.host.facts import ROOT, Ask, Facts, SilentError, listed


@dataclass(frozen=True)
class Library(Facts):
    """One library.

    Attributes:
        module: as one imports it.
        installed: whether it can be found (not: whether it loads).
        version: None where it is not installed, or does not say.
        packages: pip's names that brought it, each with its version; none for a system package
            without records.
        why: one line where there is no version, or where the library does not load.
        loads: whether it does; None where nobody tried.
    """

    module: str
    installed: bool
    version: str | None
    packages: tuple[str, ...]
    why: str | None = None
    loads: bool | None = None


@dataclass(frozen=True)
class Libraries(Facts):
    """All libraries of interest, by module.

    Attributes:
        providers: what the installed ONNX Runtime was built with.
        system_opencv, system_tensorrt: where the system's own Python has them, as JetPack
            installs them.
    """

    numpy: Library
    opencv: Library
    av: Library
    onnxruntime: Library
    tensorrt: Library
    tensorrt_rtx: Library
    tensorrt_lean: Library
    cuda_bindings: Library
    pycuda: Library
    torch: Library
    onnx: Library
    providers: tuple[str, ...] | None
    system_opencv: str | None
    system_tensorrt: str | None
    unknown: dict[str, str] = field(default_factory=dict)


Load = Literal["always", "if-needed", "never"]
_OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


def library_facts(root: Path = ROOT) -> Libraries:
    """Of this Python; `root` is for the system's own packages."""
    ask = Ask()
    return Libraries(
        numpy=library("numpy", "numpy", load="always"),
        opencv=library("cv2", *_OPENCV, load="always"),
        av=library("av", "av"),
        onnxruntime=library("onnxruntime", "onnxruntime", "onnxruntime-gpu"),
        tensorrt=library("tensorrt", *_for_each_cuda("tensorrt")),
        tensorrt_rtx=library("tensorrt_rtx", *_for_each_cuda("tensorrt-rtx")),
        tensorrt_lean=library("tensorrt_lean", *_for_each_cuda("tensorrt-lean")),
        cuda_bindings=library("cuda.bindings", "cuda-bindings"),
        pycuda=library("pycuda", "pycuda"),
        torch=library("torch", "torch", load="never"),
        onnx=library("onnx", "onnx", load="never"),
        providers=ask("providers", _providers),
        system_opencv=ask("system_opencv", lambda: _of_system("cv2*", root)),
        system_tensorrt=ask("system_tensorrt", lambda: _of_system("tensorrt/__init__.py", root)),
        unknown=ask.unknown,
    )


def _for_each_cuda(name: str) -> tuple[str, ...]:
    """NVIDIA's names: the plain one only forwards to one per major release of CUDA."""
    return (name, *(f"{name}-cu{major}" for major in (13, 12, 11)))


def library(module: str, *packages: str, load: Load = "if-needed") -> Library:
    """What is known of `module`, which any of the `packages` may have brought.

    Args:
        load: whether to import it: ``always`` to see that it loads, ``if-needed`` where no
            record has its version, ``never``.
    """
    recorded = _recorded(packages)
    listing = tuple(f"{name} {version}" for name, version in recorded.items())
    version = next(iter(recorded.values()), None)
    if not _can_be_found(module):
        why = "not installed"
        if recorded:
            why = f"{', '.join(listing)} is recorded, but the module is missing: install it again"
        return Library(module, False, None, listing, why)
    if load == "never" or (load == "if-needed" and recorded):
        return Library(module, True, version, listing, None if version else "no record of it")
    try:
        loaded = _load(module)
    except SilentError as error:
        return Library(module, True, version, listing, str(error), loads=False)
    said = getattr(loaded, "__version__", None)
    version = version or (str(said) if said else None)
    why_not = None if version else "the module does not say its version"
    return Library(module, True, version, listing, why_not, loads=True)


def _load(module: str) -> ModuleType:
    """Import it; SilentError where it does not load."""
    try:
        # OpenCV prints its complaint about a missing NumPy to stdout, which is a program's.
        with redirect_stdout(sys.stderr):
            return importlib.import_module(module)
    except Exception as error:
        # A library whose parts do not fit raises whatever it likes.
        text = " ".join(str(error).split())[:200]
        raise SilentError(f"it does not load ({type(error).__name__}: {text})") from error


def _recorded(packages: tuple[str, ...]) -> dict[str, str]:
    """Those of the packages that are installed, with their versions."""
    found = {}
    for name in packages:
        # A half-removed package leaves a record without a version: some Pythons then raise
        # KeyError, others give None.
        with suppress(metadata.PackageNotFoundError, KeyError):
            if version := metadata.version(name):
                found[name] = version
    return found


def _can_be_found(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # its parent is missing or broken
        return False
    # A folder without code, as type stubs or a half-removed package leave it, has no origin.
    return spec is not None and spec.origin is not None


def _providers() -> tuple[str, ...]:
    if not _can_be_found("onnxruntime"):
        raise SilentError("onnxruntime is not installed")
    return tuple(_load("onnxruntime").get_available_providers())


def _of_system(pattern: str, root: Path) -> str:
    for place in listed(root, f"usr/lib/python3*/dist-packages/{pattern}"):
        return "/" + place.relative_to(root).as_posix()
    raise SilentError("the system's own Python does not have it")
