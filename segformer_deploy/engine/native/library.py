"""Loads the compiled network kernels, ``_network.so`` in the package, with ctypes.

The structs mirror those of kernels/network.h, field by field.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from segformer_deploy.errors import BackendError

ABI = 4
"""Number of the kernels' interface; a library with another one is not used."""
VARIABLE = "SEGDEPLOY_NETWORK"
"""Takes another variant than the processor's best, for comparison: one of VARIANTS before it."""
VARIANTS = ("baseline", "avx2", "avx512")
"""Each runs wherever one after it does."""

NO_BYTES, FITTING_BYTES, ANY_BYTES = 0, 1, 2
"""Which integers may be packed as bytes: those of inputs known to lie above 0, or little below,
where no two neighbours' products leave int16; or any."""

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_FLOAT = ctypes.c_float


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, _POINTER) for name in names]


def _integers(*names: str) -> list[tuple[str, Any]]:
    return [(name, _INT) for name in names]


def _floats(*names: str) -> list[tuple[str, Any]]:
    return [(name, _FLOAT) for name in names]


class Linear(ctypes.Structure):
    """`Linear` in network.h."""

    _fields_ = [
        *_pointers("weight", "bias", "scale", "start"),
        *_integers("offset"),
        *_floats("input_step", "output_step"),
        *_integers("inputs", "outputs"),
    ]


class Norm(ctypes.Structure):
    """`Norm` in network.h."""

    _fields_ = [*_pointers("gamma", "beta"), ("eps", _FLOAT), ("width", _INT)]


class Axis(ctypes.Structure):
    """`Axis` in network.h."""

    _fields_ = _pointers("lower", "upper", "w_lower", "w_upper")


class Step(ctypes.Structure):
    """`Step` in network.h."""

    _fields_ = [("kind", _INT), ("arguments", _POINTER)]


class Convolution(ctypes.Structure):
    """`Convolution` in network.h."""

    kind = 0
    _fields_ = [
        *_pointers("input", "mean", "output"),
        ("linear", Linear),
        ("before", Norm),
        ("after", Norm),
        *_integers("height", "width", "channels", "kernel", "stride", "padding"),
        *_integers("out_height", "out_width"),
    ]


class LinearRows(ctypes.Structure):
    """`LinearRows` in network.h."""

    kind = 1
    _fields_ = [
        *_pointers("input", "output"),
        ("linear", Linear),
        ("before", Norm),
        *_integers("rows", "relu"),
    ]


class Grids(ctypes.Structure):
    """`Grids` in network.h."""

    _fields_ = _floats("query", "key", "softmax", "value")


class Keys(ctypes.Structure):
    """`Keys` in network.h."""

    kind = 2
    _fields_ = [
        *_pointers("input", "keys", "values"),
        ("linear", Linear),
        ("before", Norm),
        ("grids", Grids),
        *_integers("tokens", "heads"),
    ]


class Attention(ctypes.Structure):
    """`Attention` in network.h."""

    kind = 3
    _fields_ = [
        *_pointers("input", "output", "keys", "values"),
        ("norm", Norm),
        ("query", Linear),
        ("out", Linear),
        ("grids", Grids),
        *_integers("tokens", "key_tokens", "heads"),
    ]


class Ffn(ctypes.Structure):
    """`Ffn` in network.h."""

    kind = 4
    _fields_ = [
        *_pointers("input", "output"),
        ("norm", Norm),
        ("expand", Linear),
        ("contract", Linear),
        *_pointers("depthwise", "depthwise_bias"),
        *_integers("height", "width", "threads"),
    ]


class Decoder(ctypes.Structure):
    """`Decoder` in network.h."""

    kind = 5
    _fields_ = [
        *_pointers("own", "classifier", "classifier_bias", "classifier_scale"),
        *_floats("classifier_step"),
        *_integers("classifier_bytes"),
        *_pointers("logits"),
        ("fuse", Linear),
        ("coarse", _POINTER * 3),
        ("rows", Axis * 3),
        ("columns", Axis * 3),
        ("coarse_width", _INT * 3),
        *_integers("height", "width", "channels", "classes"),
    ]


Arguments = Convolution | LinearRows | Keys | Attention | Ffn | Decoder


@dataclass(frozen=True)
class Library:
    """The C functions of one variant.

    Attributes:
        panel: width of a packed weight's panels.
        bytes: NO_BYTES, FITTING_BYTES or ANY_BYTES.
    """

    variant: str
    panel: int
    bytes: int
    run: Callable[..., int]
    open_pool: Callable[[int], int | None]
    close_pool: Callable[[int], None]


_lock = threading.Lock()
_loaded: dict[str, Library] = {}


def library_path() -> Path:
    """``_network.so`` beside this file, or, in an editable install, in site-packages."""
    import segformer_deploy.engine.native as package

    places = [Path(folder) / "_network.so" for folder in package.__path__]
    return next((place for place in places if place.is_file()), places[0])


def load_library() -> Library:
    """The kernels for this processor; BackendError says why there are none."""
    variant = os.environ.get(VARIABLE, "").strip().lower()
    with _lock:
        if variant not in _loaded:
            _loaded[variant] = _load(library_path(), variant)
        return _loaded[variant]


def chosen_variant(asked: str, best: str) -> str:
    """`asked`, or where nothing is, `best`; BackendError where this processor cannot run it."""
    runs = VARIANTS[: VARIANTS.index(best) + 1]
    if asked and asked not in runs:
        raise BackendError(
            f"{VARIABLE}={asked} on a processor that runs {best}",
            " or ".join(reversed(runs)),
            f"unset {VARIABLE}",
        )
    return asked or best


def _load(path: Path, variant: str) -> Library:
    if not path.is_file():
        raise BackendError(
            "the package was installed without its compiled network",
            "a wheel for this platform, or a C compiler at installation",
            "install a C compiler and reinstall segformer-deploy, or use --backend onnxruntime",
        )
    try:
        code = ctypes.CDLL(str(path))
        abi = int(code.segdeploy_network_abi())
        if abi != ABI:
            raise BackendError(
                f"{path.name} has interface {abi}", f"{ABI}", "reinstall segformer-deploy"
            )
        code.segdeploy_network_variant.restype = ctypes.c_char_p
        best = code.segdeploy_network_variant().decode()
        variant = chosen_variant(variant, best)
        run = getattr(code, f"segdeploy_network_run_{variant}")
        run.argtypes, run.restype = [_POINTER, ctypes.POINTER(Step), _INT], ctypes.c_int
        opened, closed = code.segdeploy_network_pool, code.segdeploy_network_pool_close
        opened.argtypes, opened.restype = [_INT], _POINTER
        closed.argtypes, closed.restype = [_POINTER], None
        panel = int(getattr(code, f"segdeploy_network_panel_{variant}")())
        as_bytes = int(getattr(code, f"segdeploy_network_bytes_{variant}")())
    except (OSError, AttributeError) as error:
        raise BackendError(
            f"{path.name} does not load: {error}",
            "the library that belongs to this version, or a variant that it has",
            "reinstall segformer-deploy, or use --backend onnxruntime",
        ) from error
    return Library(
        variant,
        panel,
        as_bytes,
        cast("Callable[..., int]", run),
        cast("Callable[[int], int | None]", opened),
        cast("Callable[[int], None]", closed),
    )
