"""The ROS 2 example, with stand-ins for rclpy and sensor_msgs that check what they are given."""

from __future__ import annotations

import array
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.video.overlay import Overlay

NODE = Path(__file__).parents[2] / "examples" / "ros2" / "segdeploy_node.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("segdeploy_node", NODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


node = load()


class Image:
    """sensor_msgs/Image: its fields and no others, of the types that rclpy insists on."""

    FIELDS = types.MappingProxyType(
        {
            "header": object, "height": int, "width": int, "encoding": str,
            "is_bigendian": int, "step": int, "data": array.array,
        }
    )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        assert isinstance(value, self.FIELDS[name]), (name, type(value))
        if name == "data":
            assert value.typecode == "B"
        object.__setattr__(self, name, value)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, header: object = "h") -> Image:
    rows = pixels.reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    image = Image()
    image.header, image.encoding, image.is_bigendian = header, encoding, 0
    image.height, image.width, image.step = *pixels.shape[:2], rows.shape[1]
    image.data = array.array("B", rows.tobytes())
    return image


RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = BGR[:, :, :1]
ALPHA = RNG.integers(0, 256, (5, 7, 1), np.uint8)
INPUTS = {
    "bgr8": (BGR, BGR),
    "8UC3": (BGR, BGR),
    "rgb8": (BGR[:, :, ::-1], BGR),
    "bgra8": (np.dstack([BGR, ALPHA]), BGR),
    "rgba8": (np.dstack([BGR[:, :, ::-1], ALPHA]), BGR),
    "mono8": (GREY, GREY.repeat(3, axis=2)),
    "8UC1": (GREY, GREY.repeat(3, axis=2)),
}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", INPUTS)
def test_pictures_of_all_encodings(encoding: str, padding: int) -> None:
    pixels, expected = INPUTS[encoding]
    given = message(pixels, encoding, padding)
    picture = node.bgr_from_image(given)
    np.testing.assert_array_equal(picture, expected)
    assert picture.flags["C_CONTIGUOUS"]
    given.data[0] ^= 255  # the message may be used again: the picture is our own
    np.testing.assert_array_equal(picture, expected)


def test_the_last_row_needs_no_padding() -> None:
    given = message(BGR, "bgr8", 5)
    given.data = given.data[:-5]
    np.testing.assert_array_equal(node.bgr_from_image(given), BGR)


def test_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="'yuv422'"):
        node.bgr_from_image(message(BGR, "yuv422"))
    short, narrow, empty = (message(BGR, "bgr8") for _ in range(3))
    short.data = short.data[:-1]
    narrow.step = 20
    empty.height = 0
    for broken in (short, narrow, empty):
        with pytest.raises(ValueError, match="are no picture"):
            node.bgr_from_image(broken)


@pytest.mark.parametrize(
    ("dtype", "encoding", "size"), [(np.uint8, "mono8", 1), (np.int32, "mono16", 2)]
)
def test_labels(dtype: type, encoding: str, size: int) -> None:
    class_map = RNG.integers(0, 150 if size == 1 else 300, (5, 7)).astype(dtype)
    image = node.labels_image(class_map, "header", Image())
    assert (image.header, image.encoding, image.step) == ("header", encoding, 7 * size)
    assert (image.height, image.width, image.is_bigendian) == (5, 7, 0)
    stored = np.frombuffer(image.data, f"<u{size}").reshape(5, 7)
    np.testing.assert_array_equal(stored, class_map)


def test_the_overlay_is_rgb() -> None:
    image = node.overlay_image(BGR, "header", Image())
    assert (image.encoding, image.step, len(image.data)) == ("rgb8", 21, 105)
    np.testing.assert_array_equal(node.bgr_from_image(image), BGR)


class Topic:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.subscribers = 1

    def publish(self, image: Any) -> None:
        assert isinstance(image, Image)
        self.sent.append(image)

    def get_subscription_count(self) -> int:
        return self.subscribers


class Node:
    """As much of rclpy.node.Node as the example uses."""

    parameters: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.topics: dict[str, Topic] = {}
        self.said: list[str] = []
        self.destroyed = False

    def declare_parameter(self, name: str, default: str) -> Any:
        return types.SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind: type, topic: str, quality: Any) -> Topic:
        assert kind is Image
        assert quality == 1  # a depth: reliable, as rclpy has it
        self.topics[topic] = Topic()
        return self.topics[topic]

    def create_subscription(self, kind: type, topic: str, callback: Any, quality: Any) -> Any:
        assert kind is Image
        assert quality == {"depth": 1, "history": "last", "reliability": "best effort"}
        self.listens = {topic: callback}
        return object()

    def get_logger(self) -> Any:
        return types.SimpleNamespace(warning=lambda text, **_: self.said.append(text))

    def destroy_node(self) -> None:
        self.destroyed = True


class Segmenter:
    """Class 1 where blue is more than 127."""

    def __init__(self, engine: str) -> None:
        self.engine, self.closed = engine, False
        self.spec = types.SimpleNamespace(palette=((0, 0, 0), (255, 0, 0)), class_names=("a", "b"))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        return (picture[:, :, 0] > 127).astype(np.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """rclpy and sensor_msgs in sys.modules; gives rclpy."""

    def module(name: str, **content: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    rclpy = module("rclpy", init=lambda args: None, try_shutdown=lambda: None)
    module("rclpy.node", Node=Node)
    module("rclpy.executors", ExternalShutdownException=type("Gone", (Exception,), {}))
    module(
        "rclpy.qos",
        HistoryPolicy=types.SimpleNamespace(KEEP_LAST="last"),
        ReliabilityPolicy=types.SimpleNamespace(BEST_EFFORT="best effort"),
        QoSProfile=dict,
    )
    module("sensor_msgs")
    module("sensor_msgs.msg", Image=Image)
    monkeypatch.setattr("segformer_deploy.Segmenter", Segmenter)
    monkeypatch.setattr(Node, "parameters", {"engine": "e", "input": "in", "overlay": "seen"})
    return rclpy  # type: ignore[return-value]


def test_a_running_node(ros: types.SimpleNamespace) -> None:
    seen = []

    def spin(running: Any) -> None:
        seen.append(running)
        running.listens["in"](message(BGR, "bgr8", 3, header="stamp 1"))
        running.listens["in"](message(BGR, "bayer_rggb8"))
        running.topics["seen"].subscribers = 0
        running.listens["in"](message(BGR[:, :, ::-1], "rgb8", header="stamp 2"))
        raise KeyboardInterrupt

    ros.spin = spin
    node.main([])
    running = seen[0]
    expected = (BGR[:, :, 0] > 127).astype(np.uint8)
    labels = running.topics["segmentation/labels"].sent
    assert [one.header for one in labels] == ["stamp 1", "stamp 2"]
    for one in labels:
        np.testing.assert_array_equal(np.frombuffer(one.data, np.uint8).reshape(5, 7), expected)
    pictures = running.topics["seen"].sent  # none was drawn for nobody
    assert [one.header for one in pictures] == ["stamp 1"]
    drawn = Overlay(((0, 0, 0), (255, 0, 0)), ("a", "b")).draw(BGR, expected)
    np.testing.assert_array_equal(node.bgr_from_image(pictures[0]), drawn)
    assert len(running.said) == 1
    assert "bayer_rggb8" in running.said[0]
    assert running.destroyed
    assert running._segment.closed


def test_no_overlay_unless_asked_for(
    ros: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "parameters", {"engine": "e"})
    running = node.node_class()()
    assert list(running.topics) == ["segmentation/labels"]
    running.listens["image_raw"](message(BGR, "bgr8"))
    assert len(running.topics["segmentation/labels"].sent) == 1


def test_an_engine_must_be_named(
    ros: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "parameters", {})
    with pytest.raises(SystemExit, match="which engine"):
        node.node_class()()


def test_nothing_of_ros_is_imported_before_it_runs() -> None:
    assert "rclpy" not in sys.modules
    assert "import rclpy" not in NODE.read_text().split("def node_class")[0]
