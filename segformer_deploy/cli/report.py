"""segdeploy report: a folder of results as one page, and as Markdown."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import Json, emit, say
from segformer_deploy.errors import InputError


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

    _refuse_the_same_place(results, output, markdown)
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


def _refuse_the_same_place(results: Path, output: Path, markdown: Path | None) -> None:
    """InputError where one of what is written would replace the other, or a file of results."""
    from segformer_deploy.bench.report.read import result_files

    places = [("--output", output), *([("--markdown", markdown)] if markdown is not None else [])]
    if markdown is not None and output.resolve() == markdown.resolve():
        raise InputError(
            f"--output and --markdown are both {output}",
            "two files: the page, and the same as Markdown",
            "give --markdown another name, such as report.md",
        )
    read = {path.resolve() for path in result_files(results)}
    for option, path in places:
        # One that is not there yet would be read, and named as no result, the next time.
        ours = path.suffix.lower() == ".json" and path.resolve().is_relative_to(results.resolve())
        if ours or path.resolve() in read:
            raise InputError(
                f"{option} {path} is a file of the results",
                "a place where no result lies",
                f"leave {option} out, or name a file that does not end in .json",
            )


def _write(path: Path, text: str) -> None:
    from segformer_deploy.files import atomic_file

    with atomic_file(path) as temporary:
        # A file name that is no UTF-8 must not cost the reader the page.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    say(f"wrote {path}")
