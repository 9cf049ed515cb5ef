"""NumPy's own reader of DLPack reads what we hand out, and gives it back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segformer_deploy.serve.dlpack import Lent, array_of
from tests.serve.fake_backend import Tensor, nothing_lent

KINDS = [np.uint8, np.int32, np.int64, np.float32, np.float16]


@settings(max_examples=20)  # each looks for leaks in all that this process holds
@given(st.data(), st.sampled_from(KINDS))
def test_any_array_is_read_as_it_is(data: st.DataObject, kind: type) -> None:
    shape = arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)
    array = data.draw(arrays.arrays(kind, shape))
    for given_ in (array, array[::-1], array.T):
        read = np.from_dlpack(Lent(given_))
        assert (read.dtype, read.shape) == (given_.dtype, given_.shape)
        np.testing.assert_array_equal(read, given_)
        del read
    assert nothing_lent()


def test_a_reader_keeps_the_array_alive() -> None:
    read = np.from_dlpack(Lent(np.full((3, 1000), 7, np.int32)))
    for _ in range(50):
        np.zeros((3, 1000), np.int32)
    assert (read == 7).all()
    assert not nothing_lent()
    del read
    assert nothing_lent()


def test_a_tensor_is_read_by_dlpack_not_by_as_numpy() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(array_of(Tensor.of("x", array)), array)


def test_what_dlpack_has_no_code_for_is_refused() -> None:
    with pytest.raises(KeyError):
        np.from_dlpack(Lent(np.array(["text"])))
    assert nothing_lent()
