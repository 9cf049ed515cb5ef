"""`Document` -> one HTML page that needs nothing else: no request, no script to be read.

The style sheet and the sorting script stand inside it, allowed by their hashes; the page's own
policy forbids everything else, so that even a result that smuggled markup in could fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files

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

_LONG = 40
"""Tables with more rows are closed until they are opened."""


def html_from_document(document: Document) -> str:
    """The page as text, UTF-8 to be."""
    style, script = _part("style.css"), _part("sort.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    sections = "\n".join(map(_section, document.sections))
    links = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>'
        for section in document.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escape(document.title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">To the results</a>
<header>
<h1>{escape(document.title)}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
{_callouts(document.callouts)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="content">
{sections}
</main>
<footer>Written by segdeploy report. This page holds all that it shows and asks for nothing else.
</footer>
<script>{script}</script>
</body>
</html>
"""


def _section(section: Section) -> str:
    parts = [
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">',
        f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>',
        *(f"<p>{escape(lead)}</p>" for lead in section.leads),
        _facts(section.facts),
        _callouts(section.callouts),
        _tiles(section.tiles),
        *map(_block, section.blocks),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _facts(facts: tuple[tuple[str, str], ...]) -> str:
    if not facts:
        return ""
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _tiles(tiles: tuple[tuple[str, str, str], ...]) -> str:
    if not tiles:
        return ""
    drawn = (
        f'<div><dt>{escape(name)}</dt><dd class="big">{escape(figure)}</dd>'
        f'<dd class="more">{escape(more)}</dd></div>'
        for name, figure, more in tiles
    )
    return f'<dl class="tiles">{"".join(drawn)}</dl>'


def _callouts(texts: tuple[str, ...]) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="callout" aria-label="Notes">{lines}</ul>' if lines else ""


def _block(block: Block) -> str:
    if isinstance(block, Figure):
        return _figure(block)
    if isinstance(block, Commands):
        return f'<div class="block">{_commands(block)}</div>'
    if isinstance(block, Folded):
        inside = "".join(
            _table(part) if isinstance(part, Table) else _commands(part) for part in block.blocks
        )
        return f'<div class="block">{_details(block.title, inside)}</div>'
    if len(block.rows) > _LONG:
        title = f"{block.caption}: {len(block.rows)} rows"
        return f'<div class="block">{_details(title, _table(block))}</div>'
    return f'<div class="block">{_table(block)}</div>'


def _figure(figure: Figure) -> str:
    keys = "".join(f"<li>{drawn}{escape(text)}</li>" for drawn, text in figure.legend)
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    return (
        f"<figure><figcaption><h3>{escape(figure.title)}</h3><p>{escape(figure.caption)}</p>"
        f"</figcaption>{legend}{figure.wide}{figure.narrow}"
        f"{_details('The figures as a table', _table(figure.table))}</figure>"
    )


def _commands(block: Commands) -> str:
    lines = "\n".join(map(escape, block.lines))
    return f'<h3>{escape(block.title)}</h3><pre tabindex="0"><code>{lines}</code></pre>'


def _details(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _table(table: Table) -> str:
    badge, table = shared_badge(without_empty(table))
    numeric = [
        any(row[index].value is not None for row in table.rows)
        for index in range(len(table.columns))
    ]
    head = "".join(
        f'<th scope="col"{_n(right)}>{escape(name)}</th>'
        for name, right in zip(table.columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))
        + "</tr>"
        for row in table.rows
    )
    # A grid has nothing above its first column, and an order of its own.
    sorts = ' class="sorts"' if table.columns[0] and len(table.rows) > 1 else ""
    return (
        f"<h3>{escape(table.caption)}{_badge(badge)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table{sorts}><caption class="unseen">{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell, right: bool) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.9g}"'
    return f"<td{_n(right)}{value}>{escape(cell.text)}{_badge(cell.badge)}</td>"


def _badge(text: str) -> str:
    return f' <span class="badge">{escape(text)}</span>' if text else ""


def _n(right: bool) -> str:
    return ' class="n"' if right else ""


def _part(name: str) -> str:
    return files("segformer_deploy.bench.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
