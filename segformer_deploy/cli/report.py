"""segdeploy report: a folder of results as one page, and as Markdown."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import Json, emit, say


def command(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder with results as JSON files.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same as Markdown, for a README.")
    ] = None,
    title: Annotated[str, typer.Option(help="The page's heading.")] = "SegFormer: results",
    json: Json = False,
) -> None:
    """Write one self-contained page from the JSON of bench, eval and estimate.

    Example:  segdeploy report results --output report.html --markdown report.md
    """
    from segformer_deploy.bench.report import (
        document_from_results,
        html_from_document,
        markdown_from_document,
        read_results,
        summary_from_results,
    )

    found = read_results(results)
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    document = document_from_results(found, when=when, title=title)
    _write(output, html_from_document(document))
    if markdown is not None:
        _write(markdown, markdown_from_document(document))
    for name, reason in found.unread:
        say(f"not read: {name}: {reason}")
    failed = sum(bool(case.error) for case in found.cases)
    say(
        f"{len(found.measured)} measured, {sum(case.estimated for case in found.cases)} estimated, "
        f"{failed} failed cases, {len(found.accuracies)} scores, {len(found.others)} other results"
    )
    if json:
        emit(
            {
                **summary_from_results(found),
                "output": str(output),
                "markdown": None if markdown is None else str(markdown),
            }
        )


def _write(path: Path, text: str) -> None:
    from segformer_deploy.files import atomic_file

    with atomic_file(path) as temporary:
        # A file name that is no UTF-8 must not cost the reader the page.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    say(f"wrote {path}")
