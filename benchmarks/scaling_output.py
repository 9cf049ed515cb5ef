"""What the measurement leaves behind: tables for reading, a JSON file, a chart."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import scaling_chart

from segformer_deploy.cli.common import say
from segformer_deploy.files import write_text


def tables(data: dict[str, Any]) -> str:
    """The points, the matrix product, the laws, speed-ups, checks and warnings."""
    parts = [
        [_engine_line(data)],
        [_POINT_HEAD, *(_point_row(point) for point in data["points"])],
        [_product_row(product) for product in data["product"]],
        [_fit_row(fit) for fit in data["fits"]],
        [_speed_up_row(one) for one in data["speed_up"] if one["threads"] > 1],
        [check["text"] for check in data["checks"]],
        [f"warning: {warning}" for warning in data["warnings"]],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _engine_line(data: dict[str, Any]) -> str:
    note = f" ({data['note']})" if data["note"] else ""
    return f"SegFormer-{data['task']['variant'].upper()}, random weights, {data['engine']}{note}"


_POINT_HEAD = (
    f"{'point':<24} {'GMAC':>7} {'network':>10} {'p25..p75':>17} {'frame':>10} "
    f"{'ms/GMAC':>8} {'of peak':>8} {'engine':>8} {'working':>8}"
)


def _point_row(point: dict[str, Any]) -> str:
    network, memory = point["network_ms"], point["memory_mib"]["frame"]
    between = f"{network['p25']:.1f}..{network['p75']:.1f}"
    return (
        f"{point['name']:<24} {point['macs'] / 1e9:>7.2f} {network['median']:>7.1f} ms "
        f"{between:>17} {point['frame_ms']['median']:>7.1f} ms {point['ms_per_gmac']:>8.2f} "
        f"{100 * point['share_of_product']['median']:>6.0f} % "
        f"{memory['engine']:>4.0f} MiB {memory['working']:>4.0f} MiB"
    )


def _product_row(product: dict[str, Any]) -> str:
    return (
        f"matrix product, {product['threads']} threads: {product['ms']['median']:.1f} ms, "
        f"{product['gmac_per_s']:.1f} GMAC/s, {product['cores_busy']:.2f} cores busy"
    )


def _fit_row(fit: dict[str, Any]) -> str:
    what, _, kind = fit["y"].partition("_")
    name = f"{what} {'time' if kind == 'ms' else kind}"
    law = f"grows as {fit['x']}^" if fit["kind"] == "power" else f"per one of {fit['x']}: "
    return f"{name} {law}{fit['text']} ({fit['axis']}, {fit['points']} points)"


def _speed_up_row(one: dict[str, Any]) -> str:
    network, frame = one["network"], one["frame"]
    return (
        f"{one['threads']} threads over one: network {network['median']:.2f} times as fast "
        f"(p10 to p90 {network['p10']:.2f} to {network['p90']:.2f}), frame {frame['median']:.2f}"
    )


def write(data: dict[str, Any], output: Path | None, chart: Path | None) -> None:
    """Each file is whole or as it was; None writes none."""
    if output is not None:
        write_text(output, json.dumps(data, indent=1) + "\n")
        say(f"wrote {output}")
    if chart is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        say('no chart: matplotlib is missing (pip install "segformer-deploy[peers]")')
        return
    scaling_chart.write(data, chart)
    say(f"wrote {chart}")
