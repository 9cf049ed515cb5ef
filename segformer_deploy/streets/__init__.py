"""Streets that never were: pictures and videos with a label for every pixel.

::

    seed ──> Street (plan, look) ──> Layout (things at z, time) ──> Canvas (B, G, R, class)
                                                                       └─> picture, label

A seed draws the street, its weather and its camera; the camera drives through it, and each
frame comes with its label. The classes are those of CamVid. One seed gives the same bytes
in every process and with any number of threads (another processor or OpenCV release may round
a few pixels otherwise); OpenCV and NumPy do all the work.
"""

from __future__ import annotations

from segformer_deploy.streets.classes import CLASS_NAMES, PALETTE
from segformer_deploy.streets.scene import Scene, StreetVideo, street_frame

__all__ = ["CLASS_NAMES", "PALETTE", "Scene", "StreetVideo", "street_frame"]
