"""The ranges file: the same bits after reading, and a readable refusal of any damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy import __version__
from segformer_deploy.calibrate.ranges import Ranges, read_ranges
from segformer_deploy.errors import InputError, OutputError

MAGNITUDES = st.floats(0, 1e30, allow_subnormal=True)
FACTORS = st.floats(2.0**-10, 2.0**10, width=32).map(float)
NAMES = st.text("abcdef.0123456789", min_size=1, max_size=12)
RANGES = Ranges(
    graph_sha256="a" * 64,
    method="percentile",
    percentile=99.999,
    network="512x512",
    origin="pictures/",
    frames=("b" * 64, "c" * 64),
    equalisation={"norm": (0.5, 2.0)},
    ranges={"norm": 1.25, "relu": 0.0},
    largest={"norm": 1.5, "relu": 0.0},
    warnings=("2 frames to calibrate on",),
)


def written(folder: Path, **changes: Any) -> Path:
    """A file of `RANGES` with some fields replaced; None removes one."""
    path = folder / "some.ranges.json"
    RANGES.write(path)
    data = json.loads(path.read_text())
    for name, value in changes.items():
        data[name] = value
        if value is None:
            del data[name]
    path.write_text(json.dumps(data))
    return path


@given(
    st.dictionaries(NAMES, MAGNITUDES, max_size=5),
    st.dictionaries(NAMES, st.lists(FACTORS, max_size=4).map(tuple), max_size=3),
    st.floats(50, 100),
    st.lists(st.text(max_size=20), max_size=3).map(tuple),
)
def test_reading_gives_back_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, magnitudes, equalisation, percentile, texts
) -> None:
    ranges = replace(
        RANGES,
        ranges=magnitudes,
        largest={name: 2 * value for name, value in magnitudes.items()},
        equalisation=equalisation,
        percentile=percentile,
        warnings=texts,
        origin="".join(texts),
    )
    path = tmp_path_factory.mktemp("ranges") / "r.json"
    ranges.write(path)
    found = read_ranges(path)
    assert found == ranges
    assert list(found.ranges) == list(ranges.ranges)
    for name, scale in found.scales().items():
        assert scale.dtype == np.float32
        assert scale.tolist() == list(equalisation[name])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    RANGES.write(tmp_path / "one")
    read_ranges(tmp_path / "one").write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes().endswith(b"}\n")


def test_a_file_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError):
        RANGES.write(tmp_path / "taken")


FIELDS = (
    *("tool", "graph_sha256", "method", "percentile", "equalise", "network", "origin", "warnings"),
    *("ranges", "largest", "equalisation", "frames"),
)


def test_the_fields_are_these(tmp_path: Path) -> None:
    data = json.loads(written(tmp_path).read_text())
    assert data.keys() == {"format", *FIELDS}


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused_by_name(tmp_path: Path, field: str) -> None:
    path = written(tmp_path, **{field: None})
    with pytest.raises(InputError, match=field) as caught:
        read_ranges(path)
    assert str(path) in str(caught.value)
    assert "segdeploy calibrate" in str(caught.value)


DAMAGES: dict[str, dict[str, Any]] = {
    "ranges that are a list": {"ranges": [1.0]},
    "ranges that are a number": {"ranges": 1.0},
    "a range of a word": {"ranges": {"norm": "wide"}},
    "a range of nothing": {"ranges": {"norm": [None]}},
    "a range of NaN": {"ranges": {"norm": float("nan")}},
    "an infinite range": {"ranges": {"norm": float("inf")}},
    "a range below 0": {"ranges": {"norm": -1e-9}},
    "a largest value of NaN": {"largest": {"norm": float("nan")}},
    "a largest value below 0": {"largest": {"norm": -1}},
    "equalisation in one number": {"equalisation": {"norm": 1.0}},
    "equalisation of words": {"equalisation": {"norm": ["wide"]}},
    "equalisation as a list": {"equalisation": [[1.0]]},
    "a percentile of a word": {"percentile": "most"},
    "frames of one number": {"frames": 3},
    "warnings of one number": {"warnings": 3},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path, **DAMAGES[damage])
    with pytest.raises(InputError) as caught:
        read_ranges(path)
    assert str(path) in str(caught.value)
    assert "segdeploy calibrate" in str(caught.value)


def test_a_number_beyond_all_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_ranges(written(tmp_path, ranges={"norm": 10**400}))


@pytest.mark.parametrize("field", ["frames", "warnings"])
def test_a_text_is_no_list(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError):
        read_ranges(written(tmp_path, **{field: "abc"}))


@pytest.mark.parametrize("found", [0, 2, "1", None, [1]])
def test_another_format_is_refused(tmp_path: Path, found: object) -> None:
    path = written(tmp_path, format=found)
    with pytest.raises(InputError, match="format"):
        read_ranges(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe\x00"])
def test_what_is_no_ranges_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.ranges.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.ranges\.json"):
        read_ranges(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    for end in range(0, len(whole) - 1, 37):
        path = tmp_path / "cut"
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_ranges(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_ranges(path)


# Misfits --------------------------------------------------------------------------------------


def test_ranges_fit_what_they_were_made_from() -> None:
    fitting = RANGES.misfit("a" * 64, frames=RANGES.frames, method="percentile", percentile=99.999)
    assert fitting is None
    assert RANGES.misfit("a" * 64) is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"graph_sha256": "d" * 64}, "d" * 12),
        ({"method": "entropy"}, "found by percentile, asked for is entropy"),
        ({"percentile": 99.9}, r"99\.999 % .*99\.9 %"),
        ({"frames": ("b" * 64,)}, "2 from pictures/"),
        ({"frames": ("c" * 64, "b" * 64)}, "other frames"),
        ({"frames": ()}, "other frames"),
    ],
)
def test_a_misfit_says_what_differs(asked: dict[str, Any], told: str) -> None:
    reason = RANGES.misfit(**{"graph_sha256": "a" * 64, **asked})
    assert reason is not None
    with pytest.raises(ValueError, match=told):
        raise ValueError(reason)


def test_another_version_is_a_misfit() -> None:
    assert RANGES.tool == f"segdeploy {__version__}"
    reason = replace(RANGES, tool="segdeploy 0.0.1").misfit("a" * 64)
    assert reason is not None
    assert "segdeploy 0.0.1" in reason
    assert __version__ in reason


def test_a_percentile_matters_to_its_own_method_alone() -> None:
    assert replace(RANGES, method="minmax").misfit("a" * 64, percentile=50) is None
