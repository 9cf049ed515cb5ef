"""What a document is made of; neither HTML nor Markdown knows more than this."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segformer_deploy.bench.report.scale import figure_text

NOTHING = "-"
"""What stands where there is no figure."""


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    Attributes:
        text: what is shown.
        value: what it is sorted by, where it is a number; such cells stand to the right.
        badge: a word beside it that must not be missed: `estimated`, `random weights`.
    """

    text: str
    value: float | None = None
    badge: str = ""


@dataclass(frozen=True)
class Table:
    """`columns` are headings with units; every row has as many cells."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A plot drawn twice, for a wide and a narrow page, and its figures as a table.

    `legend` holds (svg mark, text).
    """

    title: str
    caption: str
    wide: str
    narrow: str
    table: Table
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Commands:
    """Lines to copy into a shell."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """A part that is closed until the reader opens it; printed open."""

    title: str
    blocks: tuple[Table | Commands, ...]


Block = Table | Figure | Commands | Folded


@dataclass(frozen=True)
class Section:
    """One part of the document.

    Attributes:
        anchor: its name in links, [a-z0-9-].
        leads: sentences under the title.
        callouts: sentences that must not be missed.
        facts: (label, text), for a machine.
        tiles: (label, figure, explanation): what the reader came for.
    """

    anchor: str
    title: str
    leads: tuple[str, ...] = ()
    callouts: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    tiles: tuple[tuple[str, str, str], ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Document:
    title: str
    subtitle: str
    callouts: tuple[str, ...]
    sections: tuple[Section, ...]


def shared_badge(table: Table) -> tuple[str, Table]:
    """The badge that every row has, and the table without it: it is said once, above."""
    badges = {next((cell.badge for cell in row if cell.badge), "") for row in table.rows}
    if len(table.rows) < 2 or len(badges) != 1 or "" in badges:
        return "", table
    rows = tuple(tuple(replace(cell, badge="") for cell in row) for row in table.rows)
    return badges.pop(), replace(table, rows=rows)


def without_empty(table: Table) -> Table:
    """The table without columns in which no row has anything; the first stays."""
    keep = [
        index
        for index in range(len(table.columns))
        if index == 0 or not table.rows or any(row[index].text != NOTHING for row in table.rows)
    ]
    rows = tuple(tuple(row[index] for index in keep) for row in table.rows)
    return replace(table, columns=tuple(table.columns[index] for index in keep), rows=rows)


def amount(value: float | None, unit: str = "", badge: str = "") -> Cell:
    """A figure with three digits that count; a dash where there is none."""
    if value is None:
        return Cell(NOTHING, None, badge)
    return Cell(figure_text(value) + (f" {unit}" if unit else ""), value, badge)


def fixed(value: float | None, digits: int) -> Cell:
    """A figure with so many decimals: percentages, ratios."""
    return Cell(NOTHING) if value is None else Cell(f"{value:.{digits}f}", value)


def count(value: int | None) -> Cell:
    return Cell(NOTHING) if value is None else Cell(str(value), float(value))
