"""How to get to an origin, as the environment says it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gbot.errors import ApiUnreachable
from gbot.outbound.route import find_route, make_tls_context

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
TRUST = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in TRUST:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("origin", "address", "server_name"),
    [
        ("https://api.line.me", ("api.line.me", 443), "api.line.me"),
        ("http://127.0.0.1:8080", ("127.0.0.1", 8080), None),
        ("https://[::1]:8443", ("::1", 8443), "::1"),
        ("http://LOCALHOST", ("localhost", 80), None),
    ],
)
def test_the_straight_way(origin: str, address: tuple[str, int], server_name: str | None) -> None:
    route = find_route(origin)
    assert (route.address, route.server_name, route.target_prefix, route.tunnel) == (address, server_name, "", None)
    assert f"Host: {origin.partition('//')[2]}\r\n" in route.fixed_lines
    assert not route.is_proxied


@pytest.mark.parametrize(
    "origin",
    [
        *("", "api.line.me", "ftp://a", "http://", "http://127.0.0.1:99999", "http://a:b", "http://a..b", "http://["),
        *(
            "http://a/path",
            "http://a?b",
            "http://user:secret@a",
            "http://bücher.example",
            "http://a b",
            "http://a\r\nX: y",
        ),
    ],
)
def test_what_is_no_origin_is_unreachable(origin: str) -> None:
    with pytest.raises(ApiUnreachable) as raised:
        find_route(origin)
    assert "secret" not in str(raised.value)


def test_a_proxy_is_asked_for_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    route = find_route("http://api.example:8080")
    assert (route.address, route.target_prefix, route.tunnel) == (("proxy", 3128), "http://api.example:8080", None)
    assert "Proxy-Authorization" not in route.fixed_lines
    assert route.is_proxied


def test_a_proxy_is_asked_for_a_tunnel_to_a_host_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://us%40er:pass@proxy:3128")
    route = find_route("https://api.line.me")
    assert (route.address, route.server_name, route.target_prefix) == (("proxy", 3128), "api.line.me", "")
    assert route.tunnel == (
        b"CONNECT api.line.me:443 HTTP/1.1\r\nHost: api.line.me:443\r\n"
        b"Proxy-Authorization: Basic dXNAZXI6cGFzcw==\r\n\r\n"
    )
    assert "Proxy-Authorization" not in route.fixed_lines  # which go to the host
    assert "pass" not in repr(route)


def test_the_tunnel_to_an_ipv6_address_has_it_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    tunnel = find_route("https://[::1]").tunnel
    assert tunnel is not None
    assert tunnel.startswith(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n")


@pytest.mark.parametrize(("variable", "proxied"), [("all_proxy", True), ("HTTP_PROXY", True), ("https_proxy", False)])
def test_which_variable_counts(variable: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "proxy:3128")  # without a scheme, as many write it
    assert find_route("http://api.example").is_proxied is proxied


@pytest.mark.parametrize(
    ("no_proxy", "host", "proxied"),
    [
        ("api.example", "api.example", False),
        ("example", "api.example", False),
        (".example", "api.example", False),
        ("ample", "api.example", True),
        ("other, api.example:80", "api.example", False),
        ("api.example:81", "api.example", True),
        ("*", "api.example", False),
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("nonsense/99, 10.1.2.3", "10.1.2.3", False),
        ("10.0.0.0/8", "api.example", True),
    ],
)
def test_no_proxy(no_proxy: str, host: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert find_route(f"http://{host}").is_proxied is proxied


@pytest.mark.parametrize("proxy", ["socks5://user:secret@proxy:1080", "https://user:secret@proxy", "http://proxy:x"])
def test_a_proxy_that_cannot_be_used_is_unreachable(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ApiUnreachable, match=r"no connection to https://api\.line\.me: its proxy") as raised:
        find_route("https://api.line.me")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("given", ["nowhere.pem", "empty.pem"])
def test_certificates_that_cannot_be_read_are_unreachable(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / given))
    with pytest.raises(ApiUnreachable, match=f"no certificates can be read from .*{given}"):
        make_tls_context("https://a")


def test_without_a_word_from_the_environment_the_usual_authorities_are_trusted() -> None:
    context = make_tls_context("https://a")
    assert len(context.get_ca_certs()) > 50
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_folder_of_certificates_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert make_tls_context("https://a").get_ca_certs() == []  # they are read when they are needed
