"""The repository's own check of `segdeploy fit`: its picks beside those of a full matrix."""

from __future__ import annotations

from segformer_deploy.bench.report.fields import items, mapping, number, text, texts, whole
from segformer_deploy.bench.report.known_parts import Built, Data, percent
from segformer_deploy.bench.report.parts import Cell, Table, count, fixed


def fit_check(data: Data) -> Built:
    """One row per budget."""
    budgets = [mapping(entry) for entry in items(data["budgets"])]
    rows = tuple(
        (
            Cell(f"{text(one.get('memory'))}, {text(one.get('latency'))}"),
            Cell(text(one.get("picked")) or "nothing fits"),
            Cell(text(one.get("confirmed")) or "nothing fits"),
            Cell("yes" if one.get("agree") is True else "NO"),
            count(whole(one.get("measured"))),
            count(whole(one.get("skipped"))),
            fixed(percent(number(one.get("nearest_share"))), 0),
        )
        for one in budgets
    )
    columns = (
        "budget", "fit picked", "the matrix says", "agree", "measured", "skipped",
        "nearest case, % off the budget",
    )  # fmt: skip
    agreeing = sum(one.get("agree") is True for one in budgets)
    leads = (
        f"`segdeploy fit` picked what a full matrix confirms under {agreeing} of {len(budgets)} "
        "budgets of memory and latency.",
        f"The grid: {' '.join(texts(data.get('grid')))}.",
    )
    return "Is fit's pick the best?", leads, (Table("Picks under budgets", columns, rows),)
