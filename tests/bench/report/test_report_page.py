"""The page in a browser: nothing asked for, nothing cut off, tables that sort."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segformer_deploy.bench.report import (
    document_from_results,
    html_from_document,
    read_results,
)
from tests.bench.report.given_results import MACHINE, bench, estimated, write
from tests.view.browser import Browser, browser
from tests.view.page_tools import IN_A_BROWSER

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write(
        folder,
        a=bench(weights="random", classes=19),
        b=bench(precision="int8", scale=0.5, classes=19),
        c=bench(size="1024x1024", scale=50, machine={**MACHINE, "cpu": "<b>Other</b>"}),
        d=estimated(),
        long=bench(engine="build/" + "long-name-" * 20, scale=3),
    )
    path = folder / "report.html"
    path.write_text(html_from_document(document_from_results(read_results(folder))))
    return path


def devtools(window: Browser, command: str, **parameters: object) -> None:
    window._call("POST", "/goog/cdp/execute", cmd=command, params=parameters)


@contextmanager
def counting(html: str) -> Iterator[tuple[str, list[str]]]:
    """A server of this one page, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        server.server_close()


def test_it_asks_for_nothing_and_reports_no_error(window: Browser, page: Path) -> None:
    with counting(page.read_text()) as (address, asked):
        window.open(address)
        assert window.run("return performance.getEntriesByType('resource').length") == 0
        assert asked == ["/"]
    assert window.log() == []


def test_its_policy_stops_a_request(window: Browser, page: Path) -> None:
    html = page.read_text().replace("<main", '<img src="/stolen"><main', 1)
    with counting(html) as (address, asked):
        window.open(address)
        assert asked == ["/"]
    assert any("Content Security Policy" in line for line in window.log())


@pytest.mark.parametrize("width", [390, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_its_text_can_be_read(
    window: Browser, page: Path, width: int, scheme: str
) -> None:
    devtools(window, "Emulation.setDeviceMetricsOverride",
             width=width, height=800, deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
    devtools(window, "Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    window.open(page.as_uri())
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    shown = "narrow" if width <= 800 else "wide"
    assert window.run(
        "return [...document.querySelectorAll('figure > svg')].every(s =>"
        " (s.getBoundingClientRect().width > 0) === s.classList.contains(arguments[0]))",
        shown,
    )
    # The letters of a figure are at least 9 px high, and stay inside it.
    assert window.run(
        "return [...document.querySelectorAll(`figure > svg.${arguments[0]}`)].every(s => {"
        " const f = s.getBoundingClientRect().width / s.viewBox.baseVal.width;"
        " return f * 11.5 >= 9 && [...s.querySelectorAll('text')].every(t => {"
        "  const b = t.getBBox(); return b.x >= -1 && b.x + b.width <= s.viewBox.baseVal.width + 1;"
        " }) })",
        shown,
    )
    contrast = window.run(CONTRAST)
    assert contrast >= 4.5, contrast


CONTRAST = """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255;
  return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const panel = light(getComputedStyle(document.querySelector('figure')).backgroundColor);
const ratio = c => { const l = light(c);
  return (Math.max(l, panel) + .05) / (Math.min(l, panel) + .05); };
const colour = e => { const s = getComputedStyle(e);
  if (!e.namespaceURI.endsWith('svg')) return s.color;
  return e.closest('.hollow') ? s.stroke : s.fill; };
return Math.min(...['figure h3', 'figcaption p', 'figure svg .tick', 'figure svg .name',
  'figure .axis', 'figure .mark', 'figure td'].flatMap(q => [...document.querySelectorAll(q)])
  .map(e => ratio(colour(e))));
"""


def test_headings_sort_their_table_from_the_keyboard(window: Browser, page: Path) -> None:
    devtools(window, "Emulation.clearDeviceMetricsOverride")
    window.open(page.as_uri())
    column = (
        "return [...document.querySelectorAll('#machine-1 > .block table')].at(-1)"
        ".querySelectorAll('tbody td:nth-child(2)').values().map(c => c.dataset.value).toArray()"
    )
    window.run(
        "[...document.querySelectorAll('#machine-1 > .block table')].at(-1)"
        ".querySelectorAll('th button')[1].focus()"
    )
    window.run("document.activeElement.click()")
    rising = [float(value) for value in window.run(column)]
    assert rising == sorted(rising)
    window.run("document.activeElement.click()")
    assert [float(value) for value in window.run(column)] == rising[::-1]
    assert window.run("return document.activeElement.parentElement.ariaSort") == "descending"


def test_print_is_light_and_shows_the_wide_figures(window: Browser, page: Path) -> None:
    devtools(window, "Emulation.setEmulatedMedia", media="print",
             features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
    window.open(page.as_uri())
    try:
        assert window.run("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        style = "return getComputedStyle(document.querySelector(arguments[0])).display"
        assert window.run(style, "figure > svg.wide") == "block"
        assert window.run(style, "figure > svg.narrow") == "none"
        assert window.run(style, "nav") == "none"
    finally:
        devtools(window, "Emulation.setEmulatedMedia", media="")
