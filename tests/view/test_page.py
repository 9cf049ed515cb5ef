"""The page in headless Chromium: the picture and its controls."""

from __future__ import annotations

import re
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from segformer_deploy.streets import CLASS_NAMES
from segformer_deploy.view.view import View
from tests.view.browser import Browser
from tests.view.makers import STREET, Run, get, shown, street_view, until
from tests.view.page_tools import IN_A_BROWSER, colours, jpeg_of, mode, off, slide

pytestmark = IN_A_BROWSER


def test_the_picture_moves(page: tuple[Browser, View]) -> None:
    window, view = page
    before = window.canvas()
    with Run(view):
        window.until("Number(document.querySelector('#picture').dataset.index) > 5")
        assert off(window.canvas(), before) > 1
        assert window.text("#t-latency").startswith("30")


def test_modes_and_opacity(page: tuple[Browser, View]) -> None:
    window, _ = page
    image, class_map = STREET[0]
    image, mask = jpeg_of(image), colours(class_map)
    mode(window, "mask")
    assert np.array_equal(window.canvas(), mask)  # each class exactly in its colour
    mode(window, "original")
    assert off(window.canvas(), image) < 1
    mode(window, "overlay")
    for percent in (0, 30, 50, 100):
        slide(window, percent)
        assert window.text("#opacity-value") == f"{percent} %"
        expected = cv2.addWeighted(image, 1 - percent / 100, mask, percent / 100, 0)
        assert off(window.canvas(), expected) < 1


def test_the_slider_answers_to_the_keyboard(page: tuple[Browser, View]) -> None:
    window, _ = page
    right = "\ue014"
    window.type("#opacity", right * 3)
    assert window.text("#opacity-value") == "53 %"


def test_class_switches(page: tuple[Browser, View]) -> None:
    window, _ = page
    class_map = STREET[0][1]
    mode(window, "mask")
    window.click("li:has(input[aria-label=road])")
    expected = colours(class_map)
    expected[class_map == CLASS_NAMES.index("road")] = 0
    assert np.array_equal(window.canvas(), expected)
    window.click("#none")
    assert not window.canvas().any()
    mode(window, "overlay")
    assert off(window.canvas(), jpeg_of(STREET[0][0])) < 1
    window.click("#all")
    mode(window, "mask")
    assert np.array_equal(window.canvas(), colours(class_map))


def test_classes_are_sorted_by_share(page: tuple[Browser, View]) -> None:
    window, _ = page
    rows = window.run("return [...document.querySelectorAll('#classes li')].map(r => r.innerText)")
    shares = shown(0).shares
    names = [row.splitlines()[0] for row in rows]
    assert names[0] == CLASS_NAMES[int(np.argmax(shares))]
    for row in rows:
        name, share = row.splitlines()
        value = shares[CLASS_NAMES.index(name)] * 100
        if value >= 0.05:
            assert float(share.split()[0]) == pytest.approx(value, abs=0.1)
        else:
            assert share == "\N{EN DASH}"


def test_settings_are_remembered(page: tuple[Browser, View]) -> None:
    window, view = page
    mode(window, "mask")
    slide(window, 77)
    window.click("li:has(input[aria-label=sky])")
    window.open(view.url)
    window.until("document.querySelector('#picture').dataset.index === '0'")
    assert window.run("return document.querySelector('input[value=mask]').checked")
    assert window.text("#opacity-value") == "77 %"
    assert not window.run("return document.querySelector('input[aria-label=sky]').checked")
    assert window.run("return document.querySelector('input[aria-label=road]').checked")


def test_a_snapshot_is_what_is_seen(page: tuple[Browser, View], tmp_path: Path) -> None:
    window, view = page
    folder = tmp_path / "downloads"
    folder.mkdir()
    window.downloads_to(folder)
    mode(window, "mask")
    seen = window.canvas()
    window.click("#snapshot")
    until(lambda: (folder / "street_000000.png").exists(), 10)
    time.sleep(0.1)
    snapshot = cv2.imread(str(folder / "street_000000.png"))
    assert np.array_equal(snapshot, seen)
    assert np.array_equal(snapshot, colours(STREET[0][1]))
    assert view.encodings[0] <= 2  # it costs the server nothing


def test_recording_from_the_page(page: tuple[Browser, View], tmp_path: Path) -> None:
    window, view = page
    window.until("!document.querySelector('#record').disabled")
    window.click("#record")
    window.until("document.querySelector('#record').getAttribute('aria-pressed') === 'true'")
    with Run(view, fps=10, frames=25) as run:
        run.wait()
    window.until("document.querySelector('#recording').innerText.includes(' frames')")
    assert window.text("#record").startswith("Stop 0:0")
    window.click("#record")
    window.until("document.querySelectorAll('#files a').length === 1")
    [path] = (tmp_path / "recordings").iterdir()
    assert window.text("#files a") == path.name
    told = [int(number) for number in re.findall(r"\d+", window.text("#files span"))]
    assert sum(told) == 25  # written, and left out where the machine is busy
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == told[0]
    link = window.run("return document.querySelector('#files a').getAttribute('href')")
    assert get(view, f"/{link}")[2] == path.read_bytes()


def test_a_recording_that_cannot_be_is_said(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with street_view(recordings=tmp_path / "file") as view:
        view.offer(shown(0))
        chromium.open(view.url)
        chromium.until("!document.querySelector('#record').disabled")
        chromium.click("#record")
        chromium.until("document.querySelector('#recording').innerText.includes('cannot')")
        chromium.until("!document.querySelector('#record').disabled")
    chromium.log()
