"""`Document` -> Markdown for a README: the same sections, figures as their tables."""

from __future__ import annotations

import re

from segformer_deploy.bench.report.parts import (
    Block,
    Cell,
    Commands,
    Document,
    Figure,
    Folded,
    Section,
    Table,
    shared_badge,
    without_empty,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$&@!])")


def markdown_from_document(document: Document) -> str:
    """GitHub's Markdown, ending in a line break."""
    parts = [f"# {_plain(document.title)}", _plain(document.subtitle)]
    parts += [f"> {_plain(text)}" for text in document.callouts]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {_plain(section.title)}"]
    parts += [_plain(lead) for lead in section.leads]
    if section.facts:
        facts = (f"- {_plain(name)}: {_plain(text)}" for name, text in section.facts)
        parts.append("\n".join(facts))
    parts += [f"> {_plain(text)}" for text in section.callouts]
    if section.tiles:
        tiles = (f"- {_plain(name)}: **{_plain(figure)}** ({_plain(more)})"
                 for name, figure, more in section.tiles)  # fmt: skip
        parts.append("\n".join(tiles))
    for block in section.blocks:
        parts += _block(block)
    return parts


def _block(block: Block) -> list[str]:
    if isinstance(block, Figure):
        return [f"### {_plain(block.title)}", _plain(block.caption), _table(block.table)]
    if isinstance(block, Commands):
        return [f"### {_plain(block.title)}", _fenced(block.lines)]
    if isinstance(block, Folded):
        return [part for inner in block.blocks for part in _block(inner)]
    return [f"### {_plain(block.caption)}", _table(block)]


def _table(table: Table) -> str:
    badge, table = shared_badge(without_empty(table))
    numeric = [
        any(row[index].value is not None for row in table.rows)
        for index in range(len(table.columns))
    ]
    lines = [
        _line([_plain(name) or " " for name in table.columns]),
        _line(["--:" if right else "---" for right in numeric]),
        *(_line([_cell(cell) for cell in row]) for row in table.rows),
    ]
    return (f"*All rows: {_plain(badge)}.*\n\n" if badge else "") + "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    return _plain(cell.text) + (f" *({_plain(cell.badge)})*" if cell.badge else "")


def _fenced(lines: tuple[str, ...]) -> str:
    body = "\n".join(line.replace("\n", " ") for line in lines)
    ticks = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}sh\n{body}\n{fence}"


def _plain(text: str) -> str:
    """On one line, with nothing in it that Markdown would take for markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
