"""A folder of JSON files -> `Results`: each file is known, or named with the reason why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segformer_deploy.bench.report.cases import (
    accuracy_from_eval,
    case_from_bench,
    case_from_estimate,
    with_accuracies,
    with_machines,
)
from segformer_deploy.bench.report.fields import mapping, number
from segformer_deploy.bench.report.model import Accuracy, Case, Other, Results
from segformer_deploy.errors import InputError

_LARGEST = 64 << 20
_LISTS = ("cases", "results", "runs", "devices")

Entry = Mapping[str, Any]


def _has(*names: str) -> Callable[[Entry], bool]:
    return lambda data: all(name in data for name in names)


def _is_bench(data: Entry) -> bool:
    if data.get("estimated") is True:
        return False
    measured = isinstance(data.get("latency_ms"), Mapping) and "machine" in data
    return measured or (isinstance(data.get("case"), Mapping) and bool(data.get("error")))


def _is_eval(data: Entry) -> bool:
    return number(data.get("miou")) is not None and "per_class_iou" in data


# The repository's own benchmarks, by what is in them: they carry no common mark.
_OTHERS: tuple[tuple[str, Callable[[Entry], bool]], ...] = (
    ("int8-peers", lambda d: _has("task", "results")(d) and "calibration_frames" in d["task"]),
    ("peers", lambda d: _has("task", "results")(d) and "frame_sha256" in mapping(d["task"])),
    ("scaling", _has("task", "points", "fits", "checks")),
    ("int8-speed", lambda d: _has("model", "size")(d) and isinstance(d.get("backends"), Mapping)),
    ("rtx-builds", _has("builds", "device_memory")),
    ("live-latency", lambda d: d.get("what") == "live_latency" and "age_ms" in d),
    ("stabiliser", _has("settings", "runs", "kernels")),
    ("kernels", _has("basis", "kernels", "sources_sha256")),
    ("floor", _has("points", "budgets", "prior_miou")),
    ("fit-check", lambda d: _has("grid", "budgets")(d) and "picked" in d["budgets"][0]),
    ("lean-memory", lambda d: _has("pieces", "sizes")(d) and "same_masks" in d["sizes"][0]),
    ("smallest-limit", lambda d: _has("timeout_seconds", "sizes")(d) and "forms" in d["sizes"][0]),
    ("resolution", _has("trained_at", "sizes", "images")),
    ("receptive-field", lambda d: _has("precisions", "task")(d) and "shares" in d["task"]),
    ("rivals", _has("counts", "floor_mb", "setr", "results")),
    ("tiles", lambda d: d.get("what") == "tiles" and "tiling" in d["cases"][0]),
    ("what", lambda d: isinstance(d.get("what"), str)),
)


def read_results(folder: Path) -> Results:
    """Everything under `folder` that ends in .json, in the order of the names.

    Raises InputError where `folder` is no folder, or holds no JSON file at all.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}",
            "a folder with results as JSON files",
            f"segdeploy bench --json > {folder}/bench.json",
        )
    paths = result_files(folder)
    if not paths:
        raise InputError(
            f"no .json file under {folder}",
            "the output of bench, eval or estimate with --json",
            f"segdeploy bench --json > {folder}/bench.json",
        )
    cases: list[Case] = []
    accuracies: list[Accuracy] = []
    others: list[Other] = []
    unread: list[tuple[str, str]] = []
    for path in paths:
        source = path.relative_to(folder).as_posix()
        try:
            found = [_read_entry(entry, source) for entry in _entries(_load(path))]
        except _UnreadError as error:
            unread.append((source, str(error)))
            continue
        cases += [entry for entry in found if isinstance(entry, Case)]
        accuracies += [entry for entry in found if isinstance(entry, Accuracy)]
        others += [entry for entry in found if isinstance(entry, Other)]
    accuracies += [case.accuracy for case in cases if case.accuracy is not None]
    matched = with_accuracies(tuple(with_machines(cases)), tuple(accuracies))
    return Results(
        str(folder), len(paths), matched, tuple(accuracies), tuple(others), tuple(unread)
    )


def result_files(folder: Path) -> list[Path]:
    """The files that `read_results` reads, in the order of the names."""
    return sorted(_json_files(folder))


class _UnreadError(Exception):
    """Why a file was left out."""


def _json_files(folder: Path) -> Iterator[Path]:
    # os.walk follows no links to folders, so a loop of links ends nowhere.
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(".json") and not name.startswith("."):
                yield Path(place) / name


def _load(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise _UnreadError(f"{size >> 20} MiB: more than a file of results has")
        if size == 0:
            raise _UnreadError("empty file")
        # `utf-8-sig`: PowerShell's > puts a mark at the start. NaN is no JSON, and no figure.
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
    except OSError as error:
        raise _UnreadError(f"cannot be opened: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _UnreadError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise _UnreadError(f"not JSON: {error.msg} at line {error.lineno}") from None
    except (RecursionError, ValueError) as error:
        raise _UnreadError(f"not JSON that can be read: {type(error).__name__}") from None


def _entries(data: Any) -> list[Entry]:
    """The objects of a file: the one it holds, or those of its list."""
    if isinstance(data, Mapping):
        if not (_is_bench(data) or _is_eval(data)):
            for name in _LISTS:
                inner = data.get(name)
                if isinstance(inner, list) and inner and all(map(_is_ours, inner)):
                    # What all of them share stands once, beside the list.
                    shared = {key: data[key] for key in ("machine", "run") if key in data}
                    if data.get("estimated") is True:
                        shared = {"estimated": True, **_device(data), **shared}
                    return [{**shared, **entry} for entry in inner]
        return [data]
    if isinstance(data, list) and data and all(isinstance(entry, Mapping) for entry in data):
        return data
    raise _UnreadError("neither a JSON object nor a list of objects")


def _device(data: Entry) -> dict[str, Any]:
    return {"device": data["device"]} if "device" in data else {}


def _is_ours(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    return entry.get("estimated") is True or (
        isinstance(entry.get("latency_ms"), Mapping) or isinstance(entry.get("case"), Mapping)
    )


def _read_entry(data: Entry, source: str) -> Case | Accuracy | Other:
    if data.get("estimated") is True:
        return case_from_estimate(data, source)
    if _is_bench(data):
        return case_from_bench(data, source)
    if _is_eval(data):
        return accuracy_from_eval(data, source)
    if isinstance(data.get("error"), Mapping):
        said = mapping(data["error"]).get("found")
        raise _UnreadError(f"a command that failed: {said}")
    for kind, fits in _OTHERS:
        try:
            if fits(data):
                return Other(source, kind, data)
        except (TypeError, KeyError, IndexError):
            continue  # a key that we know, with something else behind it
    keys = ", ".join(list(map(str, data))[:6]) or "none"
    raise _UnreadError(f"no kind of result that this command knows; its keys: {keys}")
