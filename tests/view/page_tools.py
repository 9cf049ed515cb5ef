"""What the tests of the page do to it, and what they compare it with."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segformer_deploy.streets import CLASS_NAMES, PALETTE
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.view.message import jpeg_from_picture
from tests.view.browser import CHROMIUM, DRIVER, Browser

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        (CHROMIUM is None or DRIVER is None) and "SEGDEPLOY_REQUIRE_BROWSER" not in os.environ,
        reason="no Chromium with its driver here (apt install chromium chromium-driver)",
    ),
]


def colours(class_map: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return Overlay(PALETTE, CLASS_NAMES).colourise(class_map)


def mode(window: Browser, name: str) -> None:
    window.run(f"document.querySelector('input[value={name}]').click()")


def slide(window: Browser, value: int) -> None:
    window.run(
        "const s = document.querySelector('#opacity'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        value,
    )


def off(picture: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Mean difference, in levels."""
    return float(np.abs(picture.astype(int) - expected.astype(int)).mean())


def jpeg_of(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What is left of a picture that travelled as the view sends it."""
    data = np.frombuffer(jpeg_from_picture(picture), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
