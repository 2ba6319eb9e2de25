"""How the demo finds its place."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from demo.run import DemoError, claim_port, reachable, with_the_callers


def test_port_of_a_server_that_shares_it_counts_as_taken() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(DemoError, match=f"{port}.*--port"):
            claim_port("127.0.0.1", port)
    assert claim_port("127.0.0.1", port) == port


@pytest.mark.parametrize("host", ["::", "::1"])
def test_port_is_looked_for_in_the_address_s_family(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with pytest.raises(DemoError, match=rf"\[{host}\]:{port}"):
            claim_port(host, port)
    assert claim_port(host, port) == port


def test_port_zero_is_any_free_one() -> None:
    assert claim_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("192.0.2.1", "192.0.2.1"), ("::", "::1"), ("::1", "::1")],
)
def test_url_of_the_demo_can_be_reached(host: str, shown: str) -> None:
    assert reachable(host) == shown


def test_what_a_developer_sets_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {
        "INVENTORY_SERVICE_URL": "http://stub",
        "SALES_SERVICE_URL": "http://stub",
        "CORS_ORIGINS": "http://a",
    }
    callers = {
        "INVENTORY_SERVICE_URL": "http://mine",
        "CORS_ORIGINS": "http://localhost:3000",
        "GATEWAY_CONFIG": "gateway.toml",
        "HOME": "/root",
    }
    assert with_the_callers(own, callers) == {
        "INVENTORY_SERVICE_URL": "http://mine",
        "SALES_SERVICE_URL": "http://stub",
        "CORS_ORIGINS": "http://a,http://localhost:3000",
        "GATEWAY_CONFIG": str(tmp_path / "gateway.toml"),
    }
