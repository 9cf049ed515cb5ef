"""Held against protobuf's own reader of its text format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.serve.pbtxt import Word, quoted, text_from_message

text_format = pytest.importorskip("google.protobuf.text_format")
wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
descriptor = pytest.importorskip("google.protobuf.descriptor_pb2")


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    read = text_format.Parse(f"value: {quoted(text)}", wrappers.StringValue())
    assert read.value == text
    assert quoted(text).isascii()


def test_nested_messages_lists_words_and_truths() -> None:
    written = text_from_message(
        [
            ("name", "a"),
            ("dependency", ["x", "y"]),
            ("public_dependency", [0, 1]),
            (
                "message_type",
                [
                    ("name", "m"),
                    ("field", [("name", "f"), ("type", Word("TYPE_INT32")), ("number", -3)]),
                    ("field", [("name", "g"), ("proto3_optional", True)]),
                ],
            ),
        ]
    )
    read = text_format.Parse(written, descriptor.FileDescriptorProto())
    assert (read.name, list(read.dependency)) == ("a", ["x", "y"])
    assert list(read.public_dependency) == [0, 1]
    first, second = read.message_type[0].field
    assert (first.name, first.type, first.number) == ("f", 5, -3)
    assert (second.name, second.proto3_optional) == ("g", True)
