"""A browser for the tests that drive one, and the mark of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segformer_deploy.view.view import View
from tests.view.browser import Browser, browser
from tests.view.makers import shown, street_view


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[tuple[Browser, View]]:
    """The page on a view that was offered one frame, with nothing remembered."""
    with street_view(recordings=tmp_path / "recordings") as view:
        view.offer(shown(0))
        chromium.open(view.url)
        chromium.run("localStorage.clear()")
        chromium.open(view.url)
        chromium.until("document.querySelector('#picture').dataset.index === '0'")
        yield chromium, view
    assert not [line for line in chromium.log() if "ERR_" not in line]
