"""Who gets in, and who does not."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from segformer_deploy.errors import InputError
from segformer_deploy.view import handler, server
from tests.view.makers import Run, get, raw, street_view, until, watching

TOKEN = "a-token-of-a-test"
EVERYTHING = (
    "/", "/app.js", "/app.css", "/info", "/stats", "/metrics", "/stream", "/stream.mjpg",
    "/record", "/recordings/a.mp4", "/nothing", "/icon.svg",
)  # fmt: skip


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_the_token_nothing_is_given(path: str) -> None:
    with street_view("0.0.0.0:0", token=TOKEN) as view:
        for address in (path, f"{path}?token=wrong", f"{path}?token=", f"{path}?token={TOKEN}x"):
            status, headers, body = get(view, address)
            assert status == 403
            assert body == b"This page needs its token: open the address that segdeploy printed.\n"
            assert "set-cookie" not in headers
        assert get(view, path, Authorization="Bearer wrong")[0] == 403
        assert get(view, path, Authorization=f"Basic {TOKEN}")[0] == 403
        assert get(view, path, Cookie=f"segdeploy_{view.port}=wrong")[0] == 403
        assert get(view, path, Cookie=f"other={TOKEN}")[0] == 403


def test_the_token_opens_by_address_cookie_and_header() -> None:
    with street_view("0.0.0.0:0", token=TOKEN) as view:
        assert view.url.endswith(f":{view.port}/?token={TOKEN}")
        status, headers, _ = get(view, f"/?token={TOKEN}", Host="some.name")
        assert status == 200
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        sent = cookie.split(";")[0]
        assert get(view, "/stats", Cookie=f"a=b; {sent}; c")[0] == 200
        assert get(view, "/stats", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(view, f"/stats?token=wrong&token={TOKEN}")[0] == 200
        assert get(view, "/stats?token=%ff%fe")[0] == 403
        # Another site's page in the same browser: the cookie alone is not enough.
        foreign = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
        assert get(view, "/stream.mjpg", Cookie=sent, **foreign)[0] == 403


def test_a_token_is_made_where_others_can_connect() -> None:
    with street_view("0.0.0.0:0") as one, street_view("0.0.0.0:0") as other:
        assert one.token
        assert len(one.token) >= 20
        assert one.token != other.token
        assert get(one, f"/stats?token={one.token}")[0] == 200
        assert get(one, f"/stats?token={other.token}")[0] == 403


def test_a_token_counts_on_this_machine_too() -> None:
    with street_view(token=TOKEN) as view:
        assert get(view, "/stats")[0] == 403
        assert get(view, f"/stats?token={TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "token", ["", "short", "with space in it", "a" * 300, "semi;colon-and-more"]
)
def test_bad_tokens_are_refused(token: str) -> None:
    with pytest.raises(InputError):
        street_view("0.0.0.0:0", token=token)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LocalHost:1234", True),  # the near end of a tunnel
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:80@evil.example", False),
        ("localhost:", False),
        ("192.168.0.4", False),
        ("", False),
    ],
)
def test_the_host_header_guards_against_rebinding(host: str, allowed: bool) -> None:
    with street_view() as view:
        for path in ("/", "/info", "/nothing"):
            status = get(view, path, Host=host)[0]
            assert (status != 403) == allowed


def test_a_host_header_is_needed_once() -> None:
    with street_view() as view:
        assert b" 403 " in raw(view, b"GET / HTTP/1.1\r\n\r\n").splitlines()[0]
        twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert b" 403 " in raw(view, twice).splitlines()[0]


def test_other_sites_may_not_draw_on_the_board() -> None:
    with street_view() as view:
        assert get(view, "/stream.mjpg", Sec_Fetch_Site="cross-site")[0] == 403
        followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert get(view, "/", **followed)[0] == 200


def test_the_page_asks_nobody_else() -> None:
    with street_view() as view:
        for path in ("/", "/app.js", "/app.css"):
            _, headers, body = get(view, path)
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'self'; img-src 'self' blob: data:")
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert b"https://" not in body
            assert b"<script>" not in body
        for path in ("/", "/info", "/stats", "/metrics"):
            assert get(view, path)[1]["cache-control"] == "no-store"


def test_posting_needs_its_header_and_a_small_body() -> None:
    wish = json.dumps({"source": 0, "on": False}).encode()
    with street_view() as view:
        assert get(view, "/record", method="POST", body=wish)[0] == 403
        assert get(view, "/record", method="POST", body=wish, X_Segdeploy="1")[0] == 200
        large = b" " * (handler.LARGEST_BODY + 1)
        assert get(view, "/record", method="POST", body=large, X_Segdeploy="1")[0] == 413
        assert get(view, "/info", method="POST", body=wish, X_Segdeploy="1")[0] == 405
        assert get(view, "/record")[0] == 405
        for wrong in (b"", b"{", b"[]", b'{"source": true, "on": true}', b'{"source": 0}', b"\xff",
                      b'{"source": 0, "on": 1}', b"[" * 4000):  # fmt: skip
            assert get(view, "/record", method="POST", body=wrong, X_Segdeploy="1")[0] == 400
        far = b'{"source": 7, "on": true}'
        assert get(view, "/record", method="POST", body=far, X_Segdeploy="1")[0] == 404
        assert get(view, "/record", method="OPTIONS")[0] == 501  # a preflight is not answered


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4", "..%2fsecret.mp4", "%2e%2e%2fsecret.mp4", "..%5csecret.mp4",
        "/etc/passwd", "%2fetc%2fpasswd", ".hidden.mp4", "link.mp4", "folder.mp4", "a%00.mp4",
        "", ".", "..", "text.txt", "a.mp4/", "pipe.mp4",
    ],
)  # fmt: skip
def test_only_recordings_are_given(tmp_path: Path, name: str) -> None:
    import os

    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in (tmp_path / "secret.mp4", folder / ".hidden.mp4", folder / "text.txt"):
        path.write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "a.mp4").write_bytes(b"film")
    with street_view(recordings=folder) as view:
        status, _, body = get(view, f"/recordings/{name}")
        assert status == 404
        assert b"secret" not in body
        status, headers, body = get(view, "/recordings/a.mp4")
        assert (status, body) == (200, b"film")
        assert headers["content-disposition"] == 'attachment; filename="a.mp4"'
        assert get(view, "/recordings/a.mp4", method="HEAD")[2] == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody tries TLS
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?" + b"a=1&" * 50 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /record HTTP/1.1\r\nHost: localhost\r\nX-Segdeploy: 1\r\nContent-Length: x\r\n\r\n",
        b"POST /record HTTP/1.1\r\nHost: localhost\r\nX-Segdeploy: 1\r\nContent-Length: -5\r\n\r\n",
        b"POST /record HTTP/1.1\r\nHost: localhost\r\nX-Segdeploy: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_garbage_is_refused_and_nothing_is_printed(
    request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with street_view() as view:
        with socket.create_connection(("127.0.0.1", view.port), 5) as connection:
            connection.sendall(request_)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer == b"" or answer.split()[1][:1] in (b"4", b"5")
        assert b"Traceback" not in answer
        assert get(view, "/stats")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_unknown_sources_are_named() -> None:
    with street_view() as view:
        for source in ("1", "-1", "x", "99999999999999", "%C2%B2"):
            for path in ("/stream", "/stream.mjpg"):
                status, _, body = get(view, f"{path}?source={source}")
                assert status == 404
                assert b"numbered 0 to 0" in body


def test_connections_without_a_request_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.3)
    with street_view() as view, socket.create_connection(("127.0.0.1", view.port), 5) as slow:
        with pytest.raises(OSError):
            while True:  # one byte now and then
                slow.sendall(b"A")
                slow.settimeout(0.05)
                try:
                    assert slow.recv(10) == b""
                    raise OSError
                except TimeoutError:
                    pass


def test_sixty_five_viewers_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import ExitStack

    with street_view() as view, ExitStack() as stack:
        viewers = [stack.enter_context(watching(view)) for _ in range(64)]
        until(lambda: view.viewers == 64)
        status, _, body = get(view, "/stream")
        assert status == 503
        assert b"64 viewers" in body
        assert get(view, "/stats")[0] == 200
        with Run(view, frames=3) as run:
            run.wait()
        assert all(viewer.frame()[0]["index"] >= 0 for viewer in viewers)
        viewers[0].answer.close()
        stack.close()
        until(lambda: view.viewers == 0)
        with watching(view) as again:
            assert again.frame()[0]["index"] == 2


def test_too_many_connections_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with street_view() as view:
        idle = [socket.create_connection(("127.0.0.1", view.port), 5) for _ in range(3)]
        try:
            answer = raw(view, b"")
            assert answer.startswith(b"HTTP/1.1 503")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
        finally:
            for one in idle:
                one.close()
        until(lambda: get(view, "/stats")[0] == 200)
