"""Class maps from strips of logits are those of the whole logits, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segformer_deploy.runtime import native
from segformer_deploy.runtime.class_map import class_map_from_logits, class_map_from_strips
from segformer_deploy.spec import FrameSize
from tests.runtime.test_class_map import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_gives_the_same_class_map(monkeypatch, variant: str, data) -> None:
    monkeypatch.setenv(native.VARIABLE, variant)
    classes = data.draw(st.sampled_from([1, 2, 19, 257]))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    # Also maps that are smaller than the logits: then a strip may decide no pixel.
    size = FrameSize(data.draw(st.integers(1, 130)), data.draw(st.integers(1, 70)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    logits = rng.normal(size=(classes, height, width)).astype(np.float32)
    if data.draw(st.booleans()):
        logits = np.round(logits)  # ties
    if data.draw(st.booleans()):
        logits[rng.integers(classes), rng.integers(height), rng.integers(width)] = np.nan
    inner = data.draw(st.sets(st.integers(1, max(1, height - 2))))
    rows = sorted({0, *(one for one in inner if one < height - 1), height - 1})
    cuts = list(pairwise(rows)) or [(0, 0)]
    one_buffer = np.empty(logits.size, np.float32)  # each strip overwrites the one before

    def strips():
        for first, last in cuts:
            part = logits[:, first : last + 1]
            held = one_buffer[: part.size].reshape(part.shape)
            held[...] = part
            yield first, held

    threads = data.draw(st.sampled_from([1, 2]))
    found = class_map_from_strips(strips(), height, size, threads=threads)
    expected = class_map_from_logits(logits, size)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("cut", [[], [(0, 5)], [(0, 5), (5, 10)], [(4, 10)]])
def test_strips_that_leave_a_gap_are_refused(cut) -> None:
    logits = np.zeros((3, 10, 4), np.float32)
    strips = [(first, np.ascontiguousarray(logits[:, first:end])) for first, end in cut]
    with pytest.raises(ValueError, match="strip"):
        class_map_from_strips(strips, 10, FrameSize(40, 16))
