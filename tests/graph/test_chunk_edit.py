"""Rows in pieces, and the editor's refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.graph.chunk_edit import GraphEdit, even_rows, pieces_for
from tests.graph.lively import lively_model


@given(st.integers(1, 600), st.integers(1, 700))
def test_pieces_cover_every_row_once_and_are_alike(height: int, count: int) -> None:
    rows = even_rows(height, count)
    assert [y for start, end in rows for y in range(start, end)] == list(range(height))
    lengths = {end - start for start, end in rows}
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert len(rows) == min(count, height)


@given(st.integers(1, 600), st.integers(1, 1 << 20), st.integers(1, 1 << 24))
def test_no_piece_takes_more_than_the_limit(height: int, row_bytes: int, limit: int) -> None:
    count = pieces_for(height, row_bytes, limit)
    longest = max(end - start for start, end in even_rows(height, count))
    assert longest * row_bytes <= limit or longest == 1
    # One piece fewer would not do.
    assert count == 1 or -(-height // (count - 1)) * row_bytes > limit


def test_a_graph_of_free_size_is_refused() -> None:
    with pytest.raises(OnnxFileError, match="is free") as caught:
        GraphEdit(lively_model())
    assert "fix_size" in caught.value.next_step
