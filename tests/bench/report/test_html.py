"""The page as text: well formed, escaped, self-contained; and the Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.report import (
    document_from_results,
    html_from_document,
    markdown_from_document,
    read_results,
    summary_from_results,
)
from segformer_deploy.bench.report.markdown import _plain
from segformer_deploy.bench.report.parts import Cell, Document, Section, Table
from tests.bench.report.given_results import MACHINE, ROOT, bench, estimated, evaluated, write

VOID = {"meta", "link", "br", "line", "rect", "path", "circle"}
EVIL = "<script>alert('x')</script>\"&|`*"


class Reader(HTMLParser):
    """Checks nesting as it goes; collects texts, tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        assert tag in VOID, tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    return reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    limit = {"bytes": 64 << 20, "enforced": True, "survived": False}
    return write(
        tmp_path,
        a=bench(weights="random", classes=19),
        b=bench(precision="int8", scale=0.5, limit=limit, weights="random", classes=19),
        c=bench(size="1024x1024", scale=50, machine={**MACHINE, "cpu": EVIL}, engine=f"b/{EVIL}"),
        d=bench(error={"found": EVIL, "expected": "", "next": ""}),
        e=evaluated(per_class_iou={EVIL: 50.0}, notes=[EVIL]),
        f=estimated(),
        g={"what": EVIL, "seconds": 3.5, "samples": [1, 2, 3]},
        odd={EVIL: 1},
    )


def page(folder: Path) -> str:
    return html_from_document(document_from_results(read_results(folder), when="today"))


def test_it_is_well_formed_and_escapes_what_it_was_given(folder: Path) -> None:
    html = page(folder)
    reader = read(html)
    assert reader.counts["script"] == 1
    assert "<script>alert" not in html
    assert reader.text.count("alert('x')") > 5


def test_it_refers_to_nothing_outside(folder: Path) -> None:
    html = page(folder)
    assert "http" not in html.replace("http-equiv", "")
    for tag, name, value in read(html).attributes:
        assert name not in ("src", "srcset", "style", "action", "xlink:href"), (tag, name)
        assert not name.startswith("on"), (tag, name)
        if name == "href":
            assert value == "data:," if tag == "link" else value.startswith("#")
    assert "url(" not in html
    assert "@import" not in html


def test_links_lead_somewhere(folder: Path) -> None:
    reader = read(page(folder))
    targets = {v[1:] for tag, name, v in reader.attributes if (tag, name) == ("a", "href")}
    assert targets <= set(reader.ids)


def test_its_policy_allows_its_own_style_and_script_by_hash_only(folder: Path) -> None:
    html = page(folder)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "unsafe" not in policy[1]
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def test_each_figure_is_named_and_has_a_table(folder: Path) -> None:
    html = page(folder)
    figures = re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    assert len(figures) > 4
    for figure in figures:
        assert "<h3>" in figure
        assert figure.count('role="img"') == 2
        assert figure.count("aria-label=") >= 3
        assert re.search(r'class="axis"[^>]*>[^<]+<', figure)
        assert re.search(r"<details>.*<table", figure, re.DOTALL)
    assert read(html).counts["h1"] == 1
    assert '<html lang="en">' in html


def test_estimates_are_hollow_and_said(folder: Path) -> None:
    html = page(folder)
    section = html.split("Estimated: Far Board</h2>", 1)[1].split("</section>", 1)[0]
    assert 'class="fp16 hollow"' in section
    assert "8.00 ms est." in section
    assert "Estimated, not measured" in section
    measured = html.split("Test CPU, 4 cores</h2>", 1)[1].split("</section>", 1)[0]
    assert "hollow" not in measured


def test_random_weights_machines_limits_and_failures_are_said(folder: Path) -> None:
    html = page(folder)
    assert "random weights: their speed and memory are real" in html
    assert "come from 2 machines" in html
    assert "64 MiB broken (enforced)" in html
    assert "Cases that failed" in html
    assert "Files that were left out" in html


def test_the_repositorys_results_make_a_page_and_markdown() -> None:
    document = document_from_results(read_results(ROOT / "benchmarks" / "results"))
    read(html_from_document(document))
    markdown = markdown_from_document(document)
    assert "| transformers, PyTorch eager |" in markdown
    assert "stated by the builder" in markdown


def test_markdown_tables_have_the_same_columns_in_each_row(folder: Path) -> None:
    text = markdown_from_document(document_from_results(read_results(folder)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    previous = 0
    for line, before in zip(rows, ["", *rows[:-1]], strict=True):
        columns = len(re.findall(r"(?<!\\)\|", line))
        if set(line) <= set("|-: "):
            assert columns == len(re.findall(r"(?<!\\)\|", before))
            previous = columns
        elif before and set(before) <= set("|-: "):
            assert columns == previous
    assert "<script>" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@given(st.text(max_size=30))
def test_plain_markdown_is_one_line_with_every_mark_escaped(text: str) -> None:
    shown = _plain(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<>`*_]", shown)


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_any_text_stays_text(title: str, lead: str, cell: str) -> None:
    table = Table(lead, (title, cell), ((Cell(cell), Cell(lead, 1.0, title)),))
    section = Section("one", title, (lead,), (cell,), ((title, cell),), blocks=(table,))
    reader = read(html_from_document(Document(title, lead, (cell,), (section,))))
    assert reader.counts["td"] == 2
    assert reader.counts["script"] == 1


def test_the_summary_says_what_the_page_says(folder: Path) -> None:
    found = summary_from_results(read_results(folder))
    by_name = {machine["machine"]: machine for machine in found["machines"]}
    assert set(by_name) == {"Test CPU", EVIL, "estimates"}
    ratios = [case["speed_over_fp32"] for case in by_name["Test CPU"]["cases"]]
    assert ratios.count(None) == len(ratios)  # the limit makes it another case
    assert [entry["file"] for entry in found["unread"]] == ["odd.json"]


def test_a_warned_case_has_a_star_and_a_row(tmp_path: Path) -> None:
    loads = [{**MACHINE, "load_average": load} for load in (0.5, 7.0)]
    noisy = bench(warnings=["the machine is noisy"], precision="int8", machine=loads[1])
    html = page(write(tmp_path, a=bench(machine=loads[0]), b=noisy))
    assert html.count("ms *</text>") == 2  # wide and narrow
    assert "1 of 2 cases carry a warning" in html
    assert "<td>the machine is noisy</td>" in html
    assert "<dd>0.5 to 7</dd>" in html
    assert "load up to 7 on 4 cores" in html
