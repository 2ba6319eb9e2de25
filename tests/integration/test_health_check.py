"""The Dockerfile's health check, run as it is written there, against gateways that listen in different ways."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.certificates import pair
from tests.support.gateway import free_port
from tests.support.poll import poll
from tests.support.store import session_store, store_server

__all__ = ["session_store", "store_server"]

ROOT = Path(__file__).parents[2]


def can_listen(address: str) -> bool:
    """Whether this machine has the address: not all have IPv6, and macOS knows no 127.0.0.2."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            return True
    except OSError:
        return False


class Container:
    """A directory with a command `gateway`, an environment and the health check of the image."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        command = directory / "gateway"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m kernel "$@"\n')
        command.chmod(0o755)
        self.directory = directory
        self.env = {
            "PATH": f"{directory}:{os.environ['PATH']}",
            "PORT": str(free_port()),
            "DRAIN_SECONDS": "0",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["gateway", "run"],
                executable=self.directory / "gateway",
                env=self.env,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self, *more: str) -> tuple[int, str]:
        """Exit code and output of the health check."""
        (written,) = re.findall(r"^\s+CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        program, *rest = ast.literal_eval(written)
        done = subprocess.run(
            [program, *rest, *more],
            executable=self.directory / program,
            env=self.env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)


@pytest.fixture
def container(
    request: pytest.FixtureRequest, tmp_path: Path, session_store: EmbeddedStore
) -> Iterator[Container]:
    made = Container(tmp_path, {"REDIS_URL": session_store.url, **request.param})
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("container", "scheme", "address"),
    [
        ({}, "http", "127.0.0.1"),
        ({"HOST": "127.0.0.2"}, "http", "127.0.0.2"),
        ({"HOST": ""}, "http", "127.0.0.1"),
        ({"HOST": "::"}, "http", "[::1]"),
        ({"tls": "yes"}, "https", "127.0.0.1"),
        ({"tls": "yes", "HOST": "127.0.0.2", "ALLOWED_HOSTS": "api.example.com"}, "https", "127.0.0.2"),
    ],
    indirect=["container"],
)
def test_finds_the_gateway_wherever_and_however_it_listens(
    container: Container, scheme: str, address: str
) -> None:
    if not can_listen(address.strip("[]")):
        pytest.skip(f"{address} is no address of this machine")
    if container.env.pop("tls", ""):
        chain, key = pair(container.directory)
        container.env |= {"TLS_CERT_FILE": str(chain), "TLS_KEY_FILE": str(key)}
    code, said = container.check()
    assert (code, "no answer from" in said) == (1, True)
    container.start()
    poll(lambda: container.check()[0] == 0, 20.0)
    url = f"{scheme}://{address}:{container.env['PORT']}/health"
    assert container.check() == (0, f"gateway: {url}/live answers 200\n")
    assert container.check("--ready") == (0, f"gateway: {url}/ready answers 200\n")


@pytest.mark.parametrize("container", [{}], indirect=True)
def test_reads_env_files_and_stays_healthy_beside_an_error_that_waits_for_a_reload(
    container: Container,
) -> None:
    port = container.env.pop("PORT")
    (container.directory / ".env").write_text(f"PORT={port}\nHOST=127.0.0.1\n")
    container.start()
    poll(lambda: container.check()[0] == 0, 20.0)
    (container.directory / ".env").write_text(f"PORT={port}\nHOST=127.0.0.1\nWORKERS=none\nbroken line\n")
    assert container.check() == (0, f"gateway: http://127.0.0.1:{port}/health/live answers 200\n")


@pytest.mark.parametrize("container", [{"JWT_JWKS_URL": "http://127.0.0.1:9/keys"}], indirect=True)
def test_a_gateway_without_keys_is_alive_but_not_ready(container: Container) -> None:
    container.start()
    poll(lambda: container.check()[0] == 0, 20.0)
    code, said = container.check("--ready")
    assert code == 1
    assert "/health/ready answers 503" in said
