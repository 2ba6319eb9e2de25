"""How the demo finds its place: directory and port."""

from __future__ import annotations

import socket
import tempfile

import pytest

from bench.demo import DemoError, claim_port, reachable, short_directory


@pytest.mark.parametrize(
    ("usual", "taken"), [("/var/tmp", "/var/tmp"), ("/" + "x" * 53, None), ("/" + "x" * 54, "/tmp")]
)
def test_long_temporary_directory_is_avoided(
    usual: str, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", usual)
    assert short_directory() == (taken or usual)


def test_port_of_a_server_that_shares_it_counts_as_taken() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(DemoError, match=f"{port}.*--port"):
            claim_port("127.0.0.1", port)
    assert claim_port("127.0.0.1", port) == port


def test_port_zero_is_any_free_one() -> None:
    assert claim_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("192.0.2.1", "192.0.2.1")]
)
def test_url_of_the_demo_can_be_reached(host: str, shown: str) -> None:
    assert reachable(host) == shown
