"""A ROS 2 node: sensor_msgs/Image in, a label image (and, if wanted, an overlay) out.

Nothing of ROS is imported before `main` runs, so that the rest can be tested without it.
"""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

_CHANNELS = {"bgr8": 3, "rgb8": 3, "mono8": 1, "8UC1": 1, "8UC3": 3, "bgra8": 4, "rgba8": 4}
_TO_BGR = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "mono8": cv2.COLOR_GRAY2BGR,
    "8UC1": cv2.COLOR_GRAY2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
}


def bgr_from_image(message: Any) -> Picture:
    """The picture of a sensor_msgs/Image: a fresh uint8 `[H, W, 3]` BGR.

    Raises:
        ValueError: an encoding that is none of ours, or fewer bytes than the header promises.
    """
    if message.encoding not in _CHANNELS:
        known = ", ".join(_CHANNELS)
        raise ValueError(f"the encoding is {message.encoding!r}, expected one of {known}")
    height, width, channels = message.height, message.width, _CHANNELS[message.encoding]
    # Drivers may pad rows: `step` is the distance between two of them. The last needs no padding.
    step, row = message.step, width * channels
    data = np.frombuffer(message.data, np.uint8)
    if not height or not row or step < row or len(data) < step * (height - 1) + row:
        raise ValueError(
            f"{len(data)} bytes in rows of {step} are no picture of {height}x{width} "
            f"in {message.encoding}"
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, width, channels), (step, channels, 1))
    if message.encoding in _TO_BGR:
        return cv2.cvtColor(np.ascontiguousarray(rows), _TO_BGR[message.encoding])
    return rows.copy()


def labels_image(class_map: npt.NDArray[Any], header: Any, image: Any) -> Any:
    """Fill `image`, an empty sensor_msgs/Image, with a class map `[H, W]`: the index per pixel.

    mono8; above 256 classes (int32 maps) mono16, little-endian.
    """
    if class_map.dtype == np.uint8:
        return _filled(image, header, "mono8", class_map)
    return _filled(image, header, "mono16", class_map.astype("<u2"))


def overlay_image(picture: Picture, header: Any, image: Any) -> Any:
    """Fill `image` with a picture (uint8 `[H, W, 3]` BGR), as rgb8."""
    return _filled(image, header, "rgb8", cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _filled(image: Any, header: Any, encoding: str, pixels: npt.NDArray[Any]) -> Any:
    image.header = header  # the camera's stamp and frame: what belongs together stays together
    image.height, image.width = pixels.shape[:2]
    image.encoding = encoding
    image.is_bigendian = 0
    data = np.ascontiguousarray(pixels).tobytes()
    image.step = len(data) // image.height
    # rclpy checks any other sequence element by element: a second for a large picture.
    image.data = array.array("B", data)
    return image


def node_class() -> Any:
    """The node's class; imports ROS."""
    from rclpy.node import Node
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    from segformer_deploy import Segmenter
    from segformer_deploy.video.overlay import Overlay

    # A frame that comes while another is segmented takes the place of the one that waits.
    newest = QoSProfile(
        depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT
    )
    out = 1  # reliable, one message deep: subscribers of both kinds get it

    class SegdeployNode(Node):  # type: ignore[misc]
        """Segments what comes in on `input`; says labels on `output`, pictures on `overlay`."""

        def __init__(self) -> None:
            super().__init__("segdeploy")
            if not (engine := self._text("engine", "")):
                raise SystemExit("which engine? --ros-args -p engine:=build/segformer-b0-int8")
            self._segment = Segmenter(engine)
            spec = self._segment.spec
            self._overlay = Overlay(spec.palette, spec.class_names)
            labels, overlay = self._text("output", "segmentation/labels"), self._text("overlay", "")
            self._labels = self.create_publisher(Image, labels, out)
            self._pictures = self.create_publisher(Image, overlay, out) if overlay else None
            source = self._text("input", "image_raw")
            self._subscription = self.create_subscription(Image, source, self.take, newest)

        def _text(self, name: str, default: str) -> str:
            return str(self.declare_parameter(name, default).value)

        def take(self, message: Any) -> None:
            """Segment one image; one that cannot be read is said and left out."""
            try:
                picture = bgr_from_image(message)
            except ValueError as error:
                self.get_logger().warning(str(error), throttle_duration_sec=5.0)
                return
            class_map = self._segment(picture)
            self._labels.publish(labels_image(class_map, message.header, Image()))
            if self._pictures is not None and self._pictures.get_subscription_count():
                drawn = self._overlay.draw(picture, class_map)
                self._pictures.publish(overlay_image(drawn, message.header, Image()))

        def destroy_node(self) -> None:
            self._segment.close()
            super().destroy_node()

    return SegdeployNode


def main(arguments: list[str] | None = None) -> None:
    import rclpy
    from rclpy.executors import ExternalShutdownException

    rclpy.init(args=arguments)
    node = node_class()()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
