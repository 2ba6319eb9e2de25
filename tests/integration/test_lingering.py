"""Whoever still sends a body when the answer is out reads the answer: refusals, and services' early answers."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.integration.test_websocket import resident
from tests.support.gateway import GatewayFactory, GatewayProcess, start_gateway
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token

TARGET = "/api/v1/inventory/items"
LARGE = 8 * 1024 * 1024
ROUNDS = 10
ANSWERS = {
    "length": b"HTTP/1.1 401 Early\r\ncontent-length: 5\r\nconnection: close\r\n\r\nearly",
    "chunks": b"HTTP/1.1 401 Early\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nearly\r\n0\r\n\r\n",
}


def serve_early(listener: socket.socket, answer: bytes) -> None:
    """Answer every request by its head alone, and close soon after, as uvicorn and Go do."""

    def one(peer: socket.socket) -> None:
        with peer:
            peer.recv(65536)
            peer.sendall(answer)
            time.sleep(0.5)  # closing sooner, it might reset the connection before its own answer is read

    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=one, args=(peer,), daemon=True).start()


@pytest.fixture(scope="module", params=["refused", *ANSWERS])
def gateway(
    request: pytest.FixtureRequest,
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
) -> Iterator[tuple[GatewayProcess, int]]:
    """A gateway that answers uploads to TARGET early, and the status it answers with."""
    if request.param == "refused":
        yield gateway_factory(stack_env(upstream, session_store, MAX_BODY_BYTES="1000000")), 413
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_early, args=(listener, ANSWERS[request.param]), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield gateway_factory(stack_env(upstream, session_store, INVENTORY_SERVICE_URL=url)), 401


def bearer() -> dict[str, str]:
    return {"Authorization": "Bearer " + access_token().decode()}


@pytest.mark.parametrize("chunked", [False, True])
def test_python_reads_the_answer(gateway: tuple[GatewayProcess, int], chunked: bool) -> None:
    process, status = gateway
    for _ in range(ROUNDS):
        client = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
        body = iter([bytes(65536)] * (LARGE // 65536)) if chunked else bytes(LARGE)
        client.request("POST", TARGET, body, bearer(), encode_chunked=chunked)
        answer = client.getresponse()
        assert answer.status == status
        assert answer.read()
        assert answer.headers["connection"] == "close"
        client.close()


NODE = """
const [url, token, rounds, size] = process.argv.slice(1)
for (let n = 0; n < +rounds; n++) {
  const answer = await fetch(url, {method: "POST", body: new Uint8Array(+size), headers: {authorization: `Bearer ${token}`}})
  console.log(answer.status, (await answer.text()).length > 0)
}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_node_reads_the_answer(gateway: tuple[GatewayProcess, int]) -> None:
    process, status = gateway
    arguments = [process.url + TARGET, access_token().decode(), str(ROUNDS), str(LARGE)]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", NODE, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{status} true\n" * ROUNDS


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_curl_reads_the_answer(gateway: tuple[GatewayProcess, int], tmp_path: Path, expect: str) -> None:
    process, status = gateway
    body = tmp_path / "body"
    body.write_bytes(bytes(LARGE))
    asked = ["curl", "-s", "-w", "%{http_code}", "-o", str(tmp_path / "answer"), "--data-binary", f"@{body}"]
    headers = ["-H", expect, "-H", f"Authorization: {bearer()['Authorization']}"]
    for _ in range(3):
        done = subprocess.run(
            [*asked, *headers, process.url + TARGET], check=False, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, b"%d" % status)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_the_answer_over_http2(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore, tmp_path: Path
) -> None:
    gateway = gateway_factory(stack_env(upstream, session_store, HTTP2="true"))
    body = tmp_path / "body"
    body.write_bytes(bytes(LARGE))
    asked = ["curl", "-s", "--http2-prior-knowledge", "-w", "%{http_code}", "-o", str(tmp_path / "answer")]
    for _ in range(ROUNDS):
        done = subprocess.run(
            [*asked, "--data-binary", f"@{body}", "-H", "Expect:", gateway.url + TARGET],
            check=False,
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, b"401")


@pytest.fixture(scope="module")
def refusing(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> GatewayProcess:
    return gateway_factory(stack_env(upstream, session_store))


def unfinished(port: int) -> socket.socket:
    """A connection that was answered 413, all but the last byte, and has not sent all of its body."""
    link = socket.create_connection(("127.0.0.1", port), 20)
    link.sendall(b"POST %b HTTP/1.1\r\nHost: t\r\nContent-Length: 900000000\r\n\r\n" % TARGET.encode())
    link.sendall(bytes(100_000))
    answer = b""
    while b'"request_id":"' not in answer:
        part = link.recv(65536)
        assert part
        answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    return link


def test_the_answer_comes_at_once_and_silence_ends_the_connection(refusing: GatewayProcess) -> None:
    began = time.monotonic()
    with unfinished(refusing.port) as link:
        assert time.monotonic() - began < 1.5
        rest = b""
        while part := link.recv(65536):
            rest += part
        assert rest.endswith(b"}")
        assert time.monotonic() - began < 15


def test_what_is_dropped_is_bounded(refusing: GatewayProcess) -> None:
    sent = 0
    with unfinished(refusing.port) as link:
        try:
            while sent < 900_000_000:
                sent += link.send(bytes(1_000_000))
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert 60_000_000 < sent < 100_000_000


def test_a_drain_does_not_wait_for_it(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path)
    stop = threading.Event()
    with unfinished(gateway.port) as link:

        def trickle() -> None:
            try:
                while not stop.wait(0.1):
                    link.sendall(b"x")
            except OSError:
                pass

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            began = time.monotonic()
            assert gateway.stop(signal.SIGTERM, 20) == 0
            assert time.monotonic() - began < 12
        finally:
            stop.set()
            sender.join()


def test_a_lingering_connection_is_no_request_in_flight(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = gateway_factory(stack_env(upstream, session_store, MAX_REQUESTS_IN_FLIGHT="2"))
    held = [unfinished(gateway.port) for _ in range(4)]
    client = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    client.request("GET", TARGET)
    answer = client.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (401, "token-missing")
    client.close()
    for link in held:
        link.close()


def test_a_client_that_does_not_read_costs_little_however_large_the_answer(refusing: GatewayProcess) -> None:
    page = ask(refusing.port, request(target=b"/docs")).body
    folder = re.search(rb"/docs/[0-9a-f]+/", page)
    assert folder is not None
    target = folder[0] + b"swagger-ui-bundle.js"
    whole = len(ask(refusing.port, request(target=target)).body)
    assert whole > 1_000_000
    before = resident(refusing)
    clients = []
    for _ in range(100):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", refusing.port))
        client.sendall(request(target=target))
        clients.append(client)
    for client in clients:
        client.settimeout(10)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    time.sleep(0.5)
    assert (resident(refusing) - before) / len(clients) < 256 * 1024  # it was 1.5 MiB
    got = 0
    while part := clients[0].recv(65536):
        got += len(part)
    assert got > whole
    for client in clients:
        client.close()
