"""Where the page listens."""

from __future__ import annotations

import socket

import pytest

from segformer_deploy.errors import InputError, OutputError
from segformer_deploy.view.bind import Bind, is_loopback, parse_bind, reachable_host
from tests.view.makers import get, street_view


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        (" 8080 ", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        ("[::]:8080", "::", 8080),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("board.local:9000", "board.local", 9000),
    ],
)
def test_reads(text: str, host: str, port: int) -> None:
    assert parse_bind(text) == Bind(host, port)
    assert parse_bind(str(Bind(host, port))) == Bind(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "http", "::1:80", "65536", "-1", "80:80:80", "[]:80", "a b:80", "http://x:80", "x:"],
)
def test_refuses(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bind(text)
    assert "8080" in caught.value.next_step


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.4", "board"))
    assert reachable_host("192.168.0.4") == "192.168.0.4"
    assert reachable_host("0.0.0.0") not in ("", "0.0.0.0")


def test_a_port_in_use_is_said() -> None:
    with street_view() as view:
        with pytest.raises(OutputError) as caught:
            street_view(str(view.port))
        assert f"port {view.port} is in use" in caught.value.found
        assert "--view" in caught.value.next_step
        assert get(view, "/stats")[0] == 200  # and the first goes on


def test_a_foreign_address_is_said() -> None:
    with pytest.raises(OutputError, match=r"192\.0\.2\.200"):
        street_view("192.0.2.200:0")
    with pytest.raises(OutputError, match="no-such-host"):
        street_view("no-such-host.invalid:0")


def test_the_port_is_free_again_afterwards() -> None:
    with street_view() as view:
        port = str(view.port)
    with street_view(port) as view:
        assert view.url == f"http://127.0.0.1:{port}/"


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with street_view("[::1]:0") as view:
        assert view.url == f"http://[::1]:{view.port}/"
        with socket.create_connection(("::1", view.port), 5) as connection:
            request = f"GET /stats HTTP/1.1\r\nHost: [::1]:{view.port}\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    with street_view("[::]:0", token="a-good-token") as view:
        assert get(view, "/stats?token=a-good-token")[0] == 200  # by IPv4 too
