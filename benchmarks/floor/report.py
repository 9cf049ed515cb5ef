"""The table of docs/small-memory.md from the results' JSON."""

from __future__ import annotations

from typing import Any

HEAD = (
    "| input | mIoU FP32 | 8 bits | change, 95 % | arena | least | arena, c1 again "
    "| least, c1 again | live set | live set, c1 again | useful |"
)


def table(data: dict[str, Any]) -> list[str]:
    """Markdown lines: sizes as HxW, mIoU in percent, memory in bytes."""
    return [HEAD, "|" + "---|" * (HEAD.count("|") - 1), *map(_row, data["points"])]


def budget_table(data: dict[str, Any]) -> list[str]:
    head = "| arena | kind | input | mIoU, 8 bits | taken | columns, tokens | frame read |"
    return [head, "|" + "---|" * (head.count("|") - 1), *map(_budget_row, data["budgets"])]


def _row(point: dict[str, Any]) -> str:
    keep, again, change = point["keep"], point["again"], point["int8_less_fp32"]
    cells = (
        point["size"],
        f"{point['fp32_miou']:.2f}",
        f"{point['int8_miou']:.2f}",
        f"{change['difference']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})",
        f"{keep['arena_bytes']:,}",
        f"{keep['finest_arena_bytes']:,}",
        f"{again['arena_bytes']:,}",
        f"{again['finest_arena_bytes']:,}",
        f"{point['bound_c1_to_c4']:,}",
        f"{point['bound_c1_again']:,}",
        "yes" if point["useful"] else "no",
    )
    return "| " + " | ".join(cells) + " |"


def _budget_row(run: dict[str, Any]) -> str:
    plan = run["plan"]
    cells = (
        f"{run['budget']:,}",
        "c1 kept" if run["keep_c1"] else "c1 again",
        run["size"],
        f"{run['int8_miou']:.2f}",
        f"{run['arena_bytes']:,}",
        f"{plan['columns']}, {plan['tokens']}",
        "once" if run["keep_c1"] else "4 times",
    )
    return "| " + " | ".join(cells) + " |"
