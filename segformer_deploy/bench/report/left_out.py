"""Values that a file states and that cannot be: each is left out by its reader, and named here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segformer_deploy.bench.report.fields import items, mapping, positive, text

_FIGURES = (
    ("peak_rss_mib",), ("first_ms",), ("warmup",), ("threads",), ("classes",),
    ("latency_ms", "p50"), ("latency_ms", "p90"), ("latency_ms", "p99"),
    ("energy", "joules_per_frame"), ("limit", "bytes"), ("accuracy", "miou"),
    ("memory", "total_bytes"), ("latency_ms", "estimate"), ("latency_ms", "low"),
    ("latency_ms", "high"), ("machine", "cores"), ("machine", "memory_mib"),
    ("machine", "load_average"), ("machine", "memory_limit_mib"),
)  # fmt: skip


def values_left_out(data: Mapping[str, Any]) -> Iterator[str]:
    """What the file states as a figure and no machine measures: by its name, for the reader."""
    for keys in _FIGURES:
        value: Any = data
        for key in keys:
            value = mapping(value).get(key)
        if isinstance(value, (int, float)) and value != 0 and positive(value) is None:
            yield f"{' '.join(keys)} is no figure that can be: left out"
    if data.get("engine") is not None and not text(data["engine"]):
        yield "engine is no name: left out"
    samples = items(data.get("samples_ms"))
    odd = sum(positive(sample) is None for sample in samples)
    if odd:
        yield f"{odd} of {len(samples)} samples are no times: left out"
