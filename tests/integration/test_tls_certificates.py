"""What clients are shown: the validated one, renewed by a reload, its end told beforehand; versions and ciphers."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kernel.server.embedded_store import EmbeddedStore
from tests.support.certificates import pair
from tests.support.gateway import GatewayProcess, start_gateway, workers
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import stack_env

ROOT = Path(__file__).parents[2]


def shown(gateway: GatewayProcess) -> bytes:
    """The certificate that a client sees; b"" while nobody serves."""
    try:
        pem = ssl.get_server_certificate(("127.0.0.1", gateway.port), timeout=5)
    except OSError:
        return b""
    return ssl.PEM_cert_to_DER_cert(pem)


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def connect(gateway: GatewayProcess, oldest: ssl.TLSVersion, newest: ssl.TLSVersion) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version, context.maximum_version = oldest, newest
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as plain:
        return context.wrap_socket(plain)


def ask(gateway: GatewayProcess, path: str) -> str:
    with connect(gateway, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) as link:
        link.settimeout(10)
        link.sendall(f"GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: link.recv(65536), b"")).decode()


class Pair:
    """Files that are renewed in place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate, self.key = pair(directory, ends=timedelta(40))
        self.next_certificate, self.next_key = pair(directory, "next", ends=timedelta(50))

    def renew_certificate(self) -> None:
        self.next_certificate.replace(self.certificate)

    def renew_key(self) -> None:
        self.next_key.replace(self.key)


@pytest.fixture
def files(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
def env(files: Pair, upstream: Recorder, session_store: EmbeddedStore) -> dict[str, str]:
    return stack_env(
        upstream,
        session_store,
        WORKERS="2",
        TLS_CERT_FILE=str(files.certificate),
        TLS_KEY_FILE=str(files.key),
    )


@pytest.fixture
def gateway(env: dict[str, str], tmp_path: Path) -> Iterator[GatewayProcess]:
    gateway = start_gateway(env, tmp_path)
    yield gateway
    gateway.stop()


def test_what_was_validated_serves_whatever_becomes_of_the_files(
    gateway: GatewayProcess, files: Pair
) -> None:
    assert f"https://127.0.0.1:{gateway.port}" in gateway.log()
    before = shown(gateway)
    assert before == der(files.certificate)
    files.renew_certificate()  # and its key not yet
    gateway.process.send_signal(signal.SIGHUP)
    poll(lambda: "the workers go on with the configuration they have" in gateway.log())
    old = set(workers(gateway))
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    poll(lambda: len(now := set(workers(gateway))) == 2 and now.isdisjoint(old), seconds=20)
    poll(lambda: shown(gateway) == before, seconds=20)
    files.renew_key()
    gateway.process.send_signal(signal.SIGHUP)
    poll(lambda: {shown(gateway) for _ in range(10)} == {der(files.certificate)}, seconds=30)
    assert "panicked" not in gateway.log()


def test_its_end_is_a_metric(gateway: GatewayProcess, files: Pair) -> None:
    end = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc.timestamp()
    metrics = ask(gateway, "/metrics")
    value = metrics.partition("\ngateway_tls_certificate_expires_seconds ")[2].partition("\n")[0]
    assert float(value) == end


def test_copies_are_private_and_those_in_use(env: dict[str, str], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        gateway = start_gateway({**env, "TMPDIR": short}, tmp_path)
        try:
            for _ in range(3):
                old = set(workers(gateway))
                gateway.process.send_signal(signal.SIGHUP)
                poll(lambda: len(now := set(workers(gateway))) == 2 and now.isdisjoint(old), seconds=30)  # noqa: B023
            copies = list(Path(short).glob("bakery-gateway-*/tls-*"))
            assert len(copies) == 4  # of now, and of before
            assert {path.stat().st_mode & 0o777 for path in copies} == {0o600}
        finally:
            assert gateway.stop() == 0
        assert list(Path(short).iterdir()) == []


def test_tls_1_2_is_spoken_with_forward_secret_aead_ciphers_only(gateway: GatewayProcess) -> None:
    with connect(gateway, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2) as link:
        assert link.version() == "TLSv1.2"
        name, _, _ = link.cipher() or ("", "", 0)
        assert name.startswith("ECDHE-")
        assert "GCM" in name or "CHACHA20" in name
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname = False
    weak.verify_mode = ssl.CERT_NONE
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:AES256-GCM-SHA384:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 5) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        weak.wrap_socket(plain)


def test_tls_1_2_can_be_refused(env: dict[str, str], tmp_path: Path) -> None:
    gateway = start_gateway({**env, "TLS_MIN_VERSION": "1.3"}, tmp_path)
    try:
        connect(gateway, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3).close()
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            connect(gateway, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [(-9, -1, "expired on"), (2, 40, "is not valid before"), (-9, 5, "expires on")],
)
def test_a_certificate_that_clients_refuse_is_told_by_check_at_the_start_and_at_sighup(
    env: dict[str, str], tmp_path: Path, begins: float, ends: float, said: str
) -> None:
    certificate, key = pair(tmp_path, "doubtful", begins=timedelta(begins), ends=timedelta(ends))
    env = {**env, "TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key), "WORKERS": "1"}
    command = [sys.executable, "-m", "kernel", "check"]
    checked = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **env}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said in checked.stdout
    gateway = start_gateway(env, tmp_path)
    try:
        assert gateway.log().count(said) == 1
        gateway.process.send_signal(signal.SIGHUP)
        poll(lambda: gateway.log().count(said) == 2)
    finally:
        gateway.stop()
