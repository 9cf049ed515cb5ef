"""What a source's name is taken for, and that its password is never seen again."""

from __future__ import annotations

import string
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segformer_deploy.errors import MediaError
from segformer_deploy.video.address import (
    SCHEMES,
    Address,
    parse_address,
    redacted,
    without_secrets,
)

SECRET = "Zq7Wx9"
"""Stands in no message by chance."""


@pytest.mark.parametrize(
    ("text", "kind", "opens", "name", "number"),
    [
        ("-", "stdin", "-", "stdin", 0),
        ("0", "camera", "0", "camera:0", 0),
        ("12", "camera", "12", "camera:12", 12),
        ("camera:3", "camera", "3", "camera:3", 3),
        ("/dev/video7", "camera", "/dev/video7", "/dev/video7", 7),
        ("csi:1", "csi", "1", "csi:1", 1),
        ("gst:videotestsrc ! queue", "gst", "videotestsrc ! queue", "gst:videotestsrc ! queue", 0),
        ("test:", "streets", "", "test:", 0),
        ("test:seed=3,frames=9", "streets", "seed=3,frames=9", "test:seed=3,frames=9", 0),
        ("film.mp4", "file", "film.mp4", "film.mp4", 0),
        ("folder/of pictures", "file", "folder/of pictures", "folder/of pictures", 0),
        ("/dev/video", "file", "/dev/video", "/dev/video", 0),
        ("/dev/video0/x", "file", "/dev/video0/x", "/dev/video0/x", 0),
        ("a:b.mp4", "file", "a:b.mp4", "a:b.mp4", 0),
        ("-1", "file", "-1", "-1", 0),
        ("rtsp://host/a", "url", "rtsp://host/a", "rtsp://host/a", 0),
        ("RTSP://host:554/a", "url", "RTSP://host:554/a", "RTSP://host:554/a", 0),
        ("rtsp://[::1]:554/a", "url", "rtsp://[::1]:554/a", "rtsp://[::1]:554/a", 0),
        ("udp://@239.0.0.1:5000", "url", "udp://@239.0.0.1:5000", "udp://@239.0.0.1:5000", 0),
        ("http://host/a?b=c#d", "url", "http://host/a?b=c#d", "http://host/a?b=c#d", 0),
    ],
)
def test_kinds(
    text: str,
    kind: str,
    opens: str,
    name: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address(text) == Address(kind, opens, name, number)  # type: ignore[arg-type]
    assert parse_address(text).waits == (kind in ("file", "stdin"))


def test_a_path_is_a_file(tmp_path: Path) -> None:
    assert parse_address(tmp_path / "a.mp4").kind == "file"
    assert parse_address(tmp_path / "a.mp4").text == str(tmp_path / "a.mp4")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_schemes_hide_a_password(scheme: str) -> None:
    address = parse_address(f"{scheme}://user:{SECRET}@host:554/path")
    assert address.kind == "url"
    assert address.text == f"{scheme}://user:{SECRET}@host:554/path"
    assert address.name == f"{scheme}://user:***@host:554/path"


@pytest.mark.parametrize("name", ["0", "42", "camera:0", "csi:0", "test:", "test:seed=1", "gst:x"])
@pytest.mark.parametrize("folder", [False, True])
def test_what_exists_by_that_name_comes_first(
    name: str, folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if folder:
        Path(name).mkdir()
    else:
        Path(name).write_bytes(b"x")
    assert parse_address(name) == Address("file", name, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera:", "camera:0"),
        ("camera:x", "camera:0"),
        ("csi:-1", "csi:0"),
        ("camera:0 ", "camera:0"),
        ("gst:", "gst:"),
        ("gst:  ", "gst:"),
        ("ftp://host/a.mp4", "ftp://"),
        ("file:///a.mp4", "file://"),
        ("rtsp://", "rtsp://host:port/path"),
        ("rtsp:///path", "rtsp://host:port/path"),
        ("rtsp://host:port/path", "rtsp://host:port/path"),
        ("rtsp://host:0/path", "rtsp://host:port/path"),
        ("rtsp://host:70000/path", "rtsp://host:port/path"),
        ("rtsp://[::1/path", "rtsp://host:port/path"),
    ],
)
def test_what_names_nothing_is_refused_with_an_example(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError) as refused:
        parse_address(text)
    assert said in str(refused.value)
    assert refused.value.expected


def test_nothing_is_no_source() -> None:
    with pytest.raises(MediaError):
        parse_address("")


@pytest.mark.parametrize(
    "text", ["gst:videotestsrc ! " + "identity ! " * 40, "camera:" + "1" * 300, "9" * 300]
)
def test_a_long_text_is_no_error_of_the_file_system(text: str) -> None:
    with suppress(MediaError):
        assert parse_address(text).kind in ("gst", "camera", "file")


def test_a_number_that_no_integer_holds() -> None:
    for text in ("9" * 5000, "camera:" + "9" * 5000, "/dev/video" + "9" * 5000):
        with suppress(MediaError):
            parse_address(text)


def said_of(text: str) -> str:
    """All that is shown of an address, whether it is one or not."""
    try:
        return parse_address(text).name
    except MediaError as error:
        return str(error)


# A password as people have them, and the secret in it that must not be seen.
ODD = st.text(st.sampled_from(":@%/?#[]&=+ é中\u2100$!*'\"\\") | st.characters(codec="utf-8"))
PASSWORDS = st.builds(lambda a, b: a + SECRET + b, ODD, ODD)
NAMES = st.text(string.ascii_letters + string.digits + "-._é", min_size=1, max_size=8)
HOSTS = st.sampled_from(["host", "10.0.0.1", "[::1]", "cam.example.org", "münchen.example", "[::1"])


@given(user=NAMES | st.just(""), password=PASSWORDS, host=HOSTS, port=st.none() | st.integers(0))
@example(user="u", password=f"%40:{SECRET}", host="host", port=None)
def test_an_escaped_password_is_never_seen(
    user: str, password: str, host: str, port: int | None
) -> None:
    rest = "" if port is None else f":{port}"
    text = f"rtsp://{quote(user)}:{quote(password, safe='')}@{host}{rest}/path"
    assert SECRET not in said_of(text)
    assert SECRET not in redacted(text)


UNESCAPED = st.text(
    st.characters(codec="utf-8", exclude_characters="/?#", exclude_categories=["Cc"])
)


@given(user=NAMES, before=UNESCAPED, after=UNESCAPED, host=HOSTS)
@example(user="u", before="@", after="@:", host="host")
@example(user="u", before="[", after="", host="host")
@example(user="u", before="]", after="[", host="host")
@example(user="u", before="\u2100", after="", host="host")
def test_nor_is_one_with_letters_that_should_be_escaped(
    user: str, before: str, after: str, host: str
) -> None:
    text = f"rtsp://{user}:{before}{SECRET}{after}@{host}/path"
    assert SECRET not in said_of(text)
    assert SECRET not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        f"rtsp://user:a/{SECRET}@host/path",
        f"rtsp://user:{SECRET}/a@host/path",
        f"rtsp://user:{SECRET}#a@host/path",
        f"rtsp://user:a?{SECRET}@host/path",
        f"rtsp://user:12/{SECRET}@host/path",
        f"ftp://user:a/{SECRET}@host/path",
    ],
)
def test_nor_is_one_with_a_slash_that_should_be_escaped(text: str) -> None:
    assert SECRET not in said_of(text)
    assert SECRET not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        f"srt://host:9000?mode=caller&passphrase={SECRET}",
        f"http://host/video.cgi?user=admin&password={SECRET}",
        f"http://host/video.cgi?user=admin&pwd={SECRET}",
        f"http://host/video.cgi?loginuse=admin&loginpas={SECRET}",
        f"http://host/video?access_token={SECRET}&a=b",
        f"http://host/video?API_KEY={SECRET}",
        f"rtsp://host:554/user=admin_password={SECRET}_channel=1_stream=0.sdp?real_stream",
        f"rtsp://host:554/user=admin&password={SECRET}&channel=1",
    ],
)
def test_nor_is_one_in_the_query(text: str) -> None:
    address = parse_address(text)
    assert address.text == text
    assert SECRET not in address.name


@pytest.mark.parametrize(
    "text",
    [
        f"gst:rtspsrc location=rtsp://user:{SECRET}@host/path ! decodebin",
        f"gst:rtspsrc location=rtsp://host/path user-id=me user-pw={SECRET} ! decodebin",
    ],
)
def test_nor_is_one_in_a_pipeline(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = parse_address(text)
    assert address.text == text[4:]
    assert SECRET not in address.name


def test_words_of_others_lose_the_password() -> None:
    url = f"rtsp://user:{SECRET}@host/path"
    said = without_secrets(f"cannot open {url}: '{SECRET}' is wrong", url)
    assert SECRET not in said
    assert "user" in said
    assert "host/path" in said
    assert without_secrets("refused", "rtsp://host/a") == "refused"


def test_words_of_others_lose_the_password_as_it_reads_unescaped() -> None:
    url = f"rtsp://user:%40{SECRET}%2F@host/path"
    assert SECRET not in without_secrets(f"login as user with @{SECRET}/ failed", url)


@given(st.text())
def test_any_text_is_an_address_or_a_readable_error(text: str) -> None:
    with suppress(MediaError):
        assert parse_address(text).name or not text


def test_a_text_without_a_password_is_left_alone() -> None:
    for text in ("rtsp://user@host/a", "rtsp://host/a?b=%20c", "rtsp://host/a:b@c"):
        assert redacted(text) == text
