"""The page in headless Chromium: connections, sources, many classes, a phone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.view.view import View
from tests.view.browser import Browser, browser
from tests.view.makers import Run, get, shown, street_view, until
from tests.view.page_tools import IN_A_BROWSER, mode

pytestmark = IN_A_BROWSER


def test_it_comes_back_when_the_server_does(page: tuple[Browser, View]) -> None:
    window, view = page
    port = str(view.port)
    view.close()
    window.until("document.querySelector('#state').innerText === 'connection lost'")
    assert "Trying again" in window.text("#trouble")
    time.sleep(1)
    with street_view(port) as again:
        again.offer(shown(7))
        window.until("document.querySelector('#picture').dataset.index === '7'")
        assert not window.run("return document.body.classList.contains('lost')")
        window.until("document.querySelector('#trouble').hidden")
        assert again.encodings == (1,)


def test_a_stalled_source_is_said(chromium: Browser) -> None:
    now = StreamStats("street", "running", "144x256", p50_ms=20.0, fps_in=30, fps_shown=20)
    stats = [now]
    with street_view(stats=lambda: stats) as view:
        view.offer(shown(0))
        chromium.open(view.url)
        chromium.until("document.querySelector('#state').innerText === 'running'")
        chromium.until("document.querySelector('#t-size').innerText.startsWith('144')")
        assert chromium.run("return document.querySelector('#trouble').hidden")
        stats[0] = StreamStats("street", "reconnecting", error="no route to the camera", stalls=2)
        chromium.until("document.querySelector('#state').innerText === 'reconnecting'")
        assert chromium.text("#trouble") == "no route to the camera"
        assert chromium.text("#t-stalls") == "2 stalls"
    chromium.log()


def test_the_plot_draws_latency_and_drops(chromium: Browser) -> None:
    dropped = [0]

    def stats() -> list[StreamStats]:
        dropped[0] += 2
        return [StreamStats("street", "running", p50_ms=31.0, dropped=dropped[0])]

    with street_view(stats=stats) as view:
        chromium.open(view.url)
        with Run(view):
            chromium.until("Number(document.querySelector('#picture').dataset.index) > 60")
        style = "getComputedStyle(document.body).getPropertyValue"
        names = ("--last", "--p50", "--drop")
        wanted = [chromium.run(f"return {style}('{name}').trim()") for name in names]
        plot = chromium.canvas("#plot")
        for colour in wanted:
            bgr = [int(colour[at : at + 2], 16) for at in (5, 3, 1)]
            assert (np.abs(plot.astype(int) - bgr).max(axis=2) < 24).sum() > 5, colour
    chromium.log()


def test_a_hidden_page_asks_for_nothing(page: tuple[Browser, View]) -> None:
    window, view = page
    hide = (
        "Object.defineProperty(document, 'hidden', {get: () => arguments[0], configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    window.run(hide.replace("arguments[0]", "true"))
    until(lambda: view.viewers == 0, 10)
    with Run(view, frames=5) as run:
        run.wait()
    before = view.encodings
    window.run(hide.replace("arguments[0]", "false"))
    window.until("document.querySelector('#picture').dataset.index === '4'")
    assert view.encodings == (before[0] + 1,)


def test_several_sources(chromium: Browser) -> None:
    with street_view(names=("front", "rear")) as view:
        view.offer(shown(0, stream=0))
        view.offer(shown(6, stream=1))
        chromium.open(view.url)
        chromium.until("document.querySelector('#picture').dataset.index === '0'")
        chromium.run(
            "const s = document.querySelector('#source'); s.value = '1';"
            "s.dispatchEvent(new Event('change'))"
        )
        chromium.until("document.querySelector('#picture').dataset.index === '6'")
        assert chromium.run("return document.title").startswith("rear")
        chromium.open(view.url)  # and is remembered
        chromium.until("document.querySelector('#picture').dataset.index === '6'")
        chromium.run("localStorage.clear()")
    chromium.log()


def test_more_than_256_classes_are_exact(chromium: Browser) -> None:
    rng = np.random.default_rng(2)
    palette = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(400)]
    names = [f"kind {i}" for i in range(400)]
    class_map = rng.integers(-1, 402, (60, 90)).astype(np.int32)
    picture = np.zeros((60, 90, 3), np.uint8)
    with street_view(class_names=names, palette=palette) as view:
        view.offer(shown(0, picture=picture, class_map=class_map, classes=400))
        chromium.open(view.url)
        chromium.until("document.querySelector('#picture').dataset.index === '0'")
        mode(chromium, "mask")
        assert np.array_equal(chromium.canvas(), Overlay(palette, names).colourise(class_map))
        chromium.type("#filter", "KIND 39")
        visible = "[...document.querySelectorAll('#classes li')].filter(r => !r.hidden).length"
        assert chromium.run(f"return {visible}") == 11
        chromium.run("localStorage.clear()")
    chromium.log()


def test_the_token_leaves_the_address(chromium: Browser) -> None:
    with street_view(token="a-token-of-a-test", random_weights=True) as view:
        view.offer(shown(0))
        chromium.open(view.url)
        chromium.until("document.querySelector('#picture').dataset.index === '0'")
        assert chromium.run("return location.href") == f"http://127.0.0.1:{view.port}/"
        assert "random" in chromium.text("#warning")
        assert chromium.run("return document.cookie") == ""
        chromium.open(f"http://127.0.0.1:{view.port}/")  # the cookie opens it
        chromium.until("document.querySelector('#picture').dataset.index === '0'")
    chromium.log()


def test_it_fits_a_phone(tmp_path: Path) -> None:
    with browser(tmp_path / "profile", width=390, height=844) as window:
        with street_view(names=("rtsp://a-long-name.local/stream", "b")) as view:
            view.offer(shown(0))
            window.open(view.url)
            window.until("document.querySelector('#picture').dataset.index === '0'")
            width = window.run("return innerWidth")
            assert window.run("return document.documentElement.scrollWidth") <= width
            small = window.run(
                "return [...document.querySelectorAll('button, select, label, input[type=range]')]"
                ".filter(e => e.offsetParent && e.offsetHeight < 34).map(e => e.outerHTML)"
            )
            assert small == []
            unnamed = window.run(
                "return [...document.querySelectorAll('button, select, input, canvas')]"
                ".filter(e => !e.ariaLabel && !e.innerText && !e.labels?.length)"
                ".map(e => e.outerHTML)"
            )
            assert unnamed == []
            assert json.loads(get(view, "/info")[2])["sources"][1] == "b"
