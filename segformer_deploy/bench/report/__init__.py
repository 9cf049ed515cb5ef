"""A folder of results -> one page that explains itself, and Markdown for a README.

::

    folder of JSON ──read──> Results ──compose──> Document ──html──> report.html
                             (model)  compare,    sections,     └──markdown──> report.md
                                      front,      tables,
                                      roofline    figures

`read` knows each kind of file and names those that it cannot read; `model` holds what was read;
`compare` and `front` relate cases of one machine; `figures` draws with `svg` and `scale`;
`compose` puts sections together once, so that the page and the Markdown say the same.
"""

from __future__ import annotations

from segformer_deploy.bench.report.compose import document_from_results
from segformer_deploy.bench.report.html import html_from_document
from segformer_deploy.bench.report.markdown import markdown_from_document
from segformer_deploy.bench.report.read import read_results
from segformer_deploy.bench.report.summary import summary_from_results

__all__ = [
    "document_from_results",
    "html_from_document",
    "markdown_from_document",
    "read_results",
    "summary_from_results",
]
