"""Whether the gateway can listen, told before it starts."""

from __future__ import annotations

import socket
import sys

import pytest

from kernel.server.listening import CannotListen, claim, hold_off, let_in


def test_a_free_port_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert claim("127.0.0.1", port) is False
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_said_with_the_remedy(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = "[::1]" if ":" in host else host
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with pytest.raises(CannotListen) as caught:
            claim(host, port)
    assert str(caught.value) == (
        f"cannot listen on {shown}:{port}: Address already in use. "
        "Stop the program that listens there (`ss -ltnp` names it), or set another PORT."
    )


def test_a_port_that_others_share_can_be_joined() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as server:
        assert claim("127.0.0.1", server.getsockname()[1]) is True


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(CannotListen, match="HOST must be an address of this machine"):
        claim("203.0.113.7", 8000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the kernel offers no such thing")
@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_who_is_at_the_door_is_let_in_and_nobody_else(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server((host, 0), family=family) as server, socket.socket(family) as late:
        address = server.getsockname()[:2]
        with socket.create_connection(address) as early:
            early.sendall(b"early")
            assert hold_off(server.fileno())
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(address)
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(5) == b"early"
                # What has been let in is not held off.
                early.sendall(b"again")
                assert accepted.recv(5) == b"again"
        let_in(server.fileno())
        with socket.create_connection(address, 5), server.accept()[0]:
            pass
