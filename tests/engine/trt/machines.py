"""One release of the library on a machine of its own, and engines on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import pytest

from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.trt.build import PlanOptions, Profile, plan_from_onnx
from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.runtime import TrtEngine, TrtSession
from segformer_deploy.spec import FrameSize
from tests.engine.trt.fake_builder import activation_bytes
from tests.engine.trt.fake_trt import VERSIONS, World
from tests.graph.lively import session as ort_session
from tests.little import little_model


def sizes(low: str, usual: str = "", high: str = "", batch: int = 1) -> SizeRange:
    names = low, usual or low, high or usual or low
    return SizeRange(*(FrameSize.parse(name) for name in names), batch)


SMALL, WIDE = sizes("64x96"), sizes("64x64", "96x128", "160x192", 3)
LARGE = sizes("512x512", batch=8)


def shapes(one: SizeRange) -> Profile:
    low, usual, high = one.min, one.opt, one.max
    return {
        "image": (
            (1, low.height, low.width, 3),
            (1, usual.height, usual.width, 3),
            (one.batch, high.height, high.width, 3),
        )
    }


@dataclass
class Machine:
    """One release of the library, and engines on it."""

    library: Library
    world: World

    def plan(self, graph: bytes, *profiles: SizeRange, **options: Any) -> bytes:
        chosen = tuple(map(shapes, profiles))
        return plan_from_onnx(self.library, graph, PlanOptions(chosen, **options)).data

    def engine(self, graph: bytes, *profiles: SizeRange) -> TrtEngine:
        plan = self.plan(graph, *profiles)
        return TrtEngine(self.library, plan, profiles, self.world.open_driver)

    def session(self, *profiles: SizeRange, graph: bytes = b"") -> TrtSession:
        return self.engine(graph or LITTLE, *profiles).session()

    @property
    def device(self) -> FakeDriver:
        """The driver of the session that was made last."""
        return self.world.drivers[-1]


LITTLE = little_model().SerializeToString()


@cache
def reference(graph: bytes) -> Any:
    return ort_session(onnx.load_from_string(graph))


def expected(graph: bytes, image: Any, output: str = "logits") -> Any:
    return reference(graph).run([output], {"image": image})[0]


every = pytest.mark.parametrize("machine", VERSIONS, indirect=True)


def context_bytes(profile: SizeRange) -> int:
    """Context memory of a profile, with what its alignment may cost."""
    return activation_bytes(dict(shapes(profile))) + 256
