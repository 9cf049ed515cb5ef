"""What goes to a viewer: lengths, sizes, exact classes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from segformer_deploy.streets import CLASS_NAMES, PALETTE
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.view.message import (
    message,
    mjpeg_part,
    page_message,
    planes_from_class_map,
    scaled,
)
from tests.view.makers import STREET, decoded, shown


def taken_apart(data: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    (length,) = struct.unpack(">I", data[:4])
    header = json.loads(data[4 : 4 + length])
    rest = data[4 + length :]
    assert len(rest) == header["jpeg"] + header["png"]
    return header, rest[: header["jpeg"]], rest[header["jpeg"] :]


def test_a_frame_goes_whole() -> None:
    one = shown(4)
    header, jpeg, png = taken_apart(page_message(one, 960))
    assert (header["kind"], header["source"], header["index"]) == ("frame", 0, 4)
    assert (header["width"], header["height"], header["bits"]) == (256, 144, 8)
    assert header["size"] == "144x256"
    assert header["latency_ms"] == 30.0
    assert sum(header["shares"]) == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(decoded(png), one.class_map)
    difference = np.abs(decoded(jpeg).astype(int) - one.frame.image)
    assert difference.mean() < 6


@pytest.mark.parametrize("width", [64, 100, 255, 256, 960])
def test_scaling_keeps_classes(width: int) -> None:
    picture, class_map = STREET[0]
    small, small_map = scaled(picture, class_map, width)
    factor = -(-256 // width)  # a whole number: the page never gets more than `width`
    across = 256 // factor
    assert small.shape == (144 // factor, across, 3)
    assert across <= width
    assert small_map.shape == small.shape[:2]
    assert set(np.unique(small_map)) <= set(np.unique(class_map))
    # Nearest: each pixel is the class below its middle.
    y, x = 5, across - 3
    down, right = 144 / small_map.shape[0], 256 / across
    assert small_map[y, x] == class_map[int((y + 0.5) * down), int((x + 0.5) * right)]


def test_many_classes_travel_as_two_bytes() -> None:
    class_map = np.array([[0, 255, 256], [299, -1, 70000], [65535, 65534, 1000]], np.int32)
    planes = planes_from_class_map(class_map)
    assert planes.dtype == np.uint8
    assert planes.shape == (3, 6)
    together = planes[:, :3].astype(int) | planes[:, 3:].astype(int) << 8
    assert np.array_equal(together, [[0, 255, 256], [299, 65535, 65535], [65535, 65534, 1000]])
    one = shown(picture=np.zeros((3, 3, 3), np.uint8), class_map=class_map, classes=300)
    header, _, png = taken_apart(page_message(one, 960))
    assert header["bits"] == 16
    assert np.array_equal(decoded(png), planes)


def test_a_state_has_no_picture() -> None:
    header, jpeg, png = taken_apart(message({"kind": "state", "name": "Ä"}))
    assert header == {"kind": "state", "name": "Ä", "jpeg": 0, "png": 0}
    assert jpeg == png == b""


def test_a_part_of_mjpeg_is_the_overlay() -> None:
    one = shown(2)
    overlay = Overlay(PALETTE, CLASS_NAMES)
    part = mjpeg_part(one, overlay, 960, 0.5)
    head, _, rest = part.partition(b"\r\n\r\n")
    assert head.startswith(b"--segdeploy-frame\r\nContent-Type: image/jpeg\r\n")
    length = int(head.rpartition(b":")[2])
    assert rest[length:] == b"\r\n"
    drawn = overlay.draw(one.frame.image, one.class_map, opacity=0.5)
    assert np.abs(decoded(rest[:length]).astype(int) - drawn).mean() < 6


def test_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="class map"):
        scaled(STREET[0][0], STREET[0][1][:-1], 960)
