"""The tables of docs/rivals.md, from the JSON alone."""

from __future__ import annotations

from typing import Any

NAMES = {"fcn": "FCN", "pspnet": "PSPNet", "deeplabv3plus": "DeepLabV3+", "b0": "SegFormer-B0"}
PROOF_HEAD = (
    "| network | parameters, counted | published | without the training head "
    "| GMAC, counted | published |",
    "|---|---|---|---|---|---|",
)
MEASURED_HEAD = (
    "| network | frame to class map, ms | x deploy form (p10 to p90) | of which network, ms "
    "| peak MB | above the process's own | argmax in the graph, ms | peak MB |",
    "|---|---|---|---|---|---|---|---|",
)
PAPER_HEAD = (
    "| network | paper: FPS on its GPU, ADE20K | paper: time x B0's | here: time x usual B0's "
    "| here: time x deploy form's | paper: mIoU ADE20K / Cityscapes |",
    "|---|---|---|---|---|---|",
)


def proof_rows(data: dict[str, Any]) -> list[str]:
    """Counted beside published, for the networks that Table 2 counts."""
    rows = []
    for key in NAMES:
        one = data["counts"][key]
        said = one["published"]
        rows.append(
            f"| {NAMES[key]} | {one['parameters'] / 1e6:.2f} M | {said['parameters_m']} M "
            f"| {one['parameters_at_inference'] / 1e6:.2f} M | {one['macs'] / 1e9:.1f} "
            f"| {said['gmac']} |"
        )
    return rows


def measured_rows(data: dict[str, Any]) -> list[str]:
    """One row per network: with our class map, and with resize and argmax in its graph."""
    found = {one["key"]: one for one in data["results"]}
    rows = []
    for key, one in found.items():
        if key.endswith("-graph"):
            continue
        graph, ratio = found.get(f"{key}-graph"), one["ratio_to_ours"]
        inside = f"{graph['ms']['median']:.0f} | {graph['peak_mb']:.0f}" if graph else "- | -"
        rows.append(
            f"| {one['name']} | {one['ms']['median']:.0f} | {ratio['median']:.2f} "
            f"({ratio['p10']:.2f} to {ratio['p90']:.2f}) | {one['stages_ms']['infer']:.0f} "
            f"| {one['peak_mb']:.0f} | {one['peak_mb'] - data['floor_mb']:.0f} | {inside} |"
        )
    return rows


def paper_rows(data: dict[str, Any]) -> list[str]:
    """Table 2 beside ours: its frames per second as times, relative to B0."""
    found = {one["key"]: one for one in data["results"]}
    fps = data["counts"]["b0"]["published"]["fps_ade20k"]
    usual = found["b0"]["ratio_to_ours"]["median"]
    rows = []
    for key in NAMES:
        said, ratio = data["counts"][key]["published"], found[key]["ratio_to_ours"]["median"]
        rows.append(
            f"| {NAMES[key]} | {said['fps_ade20k']} "
            f"| {fps / said['fps_ade20k']:.2f} | {ratio / usual:.2f} | {ratio:.2f} "
            f"| {said['miou_ade20k']} / {said['miou_cityscapes']} |"
        )
    return rows


def setr_words(data: dict[str, Any]) -> str:
    """One sentence: counted, estimated, and measured where it was."""
    count, row = data["counts"]["setr"], data["setr"]
    by_formula = row["estimated"]
    text = (
        f"{count['parameters'] / 1e6:.0f} M parameters and {count['macs'] / 1e9:.0f} GMAC "
        f"(counted); {by_formula['parameters_mb']:.0f} MB of parameters and "
        f"{by_formula['activations_mb']:.0f} MB of activations at its widest (estimated by formula)"
    )
    if row["measured"] is None:
        return f"{text}; not run"
    ms = sorted(row["measured"]["samples_ms"])[len(row["measured"]["samples_ms"]) // 2]
    return (
        f"{text}; peak {row['measured']['peak_mb']:.0f} MB and {ms:.0f} ms for a frame "
        "(measured, alone)"
    )


def all_lines(data: dict[str, Any]) -> list[str]:
    """What the page must hold."""
    return [
        *PROOF_HEAD,
        *proof_rows(data),
        *MEASURED_HEAD,
        *measured_rows(data),
        *PAPER_HEAD,
        *paper_rows(data),
    ]


def refreshed(page: str, data: dict[str, Any]) -> str:
    """`page` with the rows of its three tables, and SETR's sentence, those of `data`."""
    makers = {PROOF_HEAD: proof_rows, MEASURED_HEAD: measured_rows, PAPER_HEAD: paper_rows}
    for head, maker in makers.items():
        text = "\n".join(head)
        begin = page.index(text) + len(text) + 1
        end = page.index("\n\n", begin)
        page = page[:begin] + "\n".join(maker(data)) + page[end:]
    begin = page.index("304 M parameters")
    return page[:begin] + setr_words(data) + page[page.index(".\n", begin) :]
