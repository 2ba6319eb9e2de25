"""SIGTERM behind a balancer: it is told, served until it has noticed, loses nothing; who is in a hurry need not wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import time
from collections import defaultdict
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayProcess, free_port, start_gateway
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token

pytestmark = pytest.mark.slow

LIVE = request(target=b"/health/live", headers=[(b"connection", b"keep-alive")])
READY = request(target=b"/health/ready")
CLIENTS = 8


class Balancer:
    """Spreads requests over gateways that say they are ready, on connections that it keeps; never tries one twice."""

    def __init__(self, ports: list[int]) -> None:
        self.ready: list[int] = list(ports)
        self.lost: list[str] = []
        self.answered = 0
        self._ports = ports
        self._turn = itertools.count()
        self._idle: defaultdict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = defaultdict(
            list
        )

    async def look(self) -> None:
        while True:
            self.ready = [port for port in self._ports if await self._is_ready(port)] or self.ready
            await asyncio.sleep(0.05)

    async def _is_ready(self, port: int) -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(READY)
            line = await reader.readline()
            await closed(writer)
            return b" 200 " in line
        return False

    async def client(self, token: bytes) -> None:
        body = b'{"name":"rye"}'
        head = b" /api/v1/inventory/items HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\n" % token
        get = b"GET" + head + b"\r\n"
        post = b"POST" + head + b"content-length: %d\r\n\r\n" % len(body) + body
        for number in itertools.count():
            port = self.ready[next(self._turn) % len(self.ready)]
            try:
                await self._ask(port, post if number % 2 else get)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.lost.append(f"{'POST' if number % 2 else 'GET'} {error!r}")
            await asyncio.sleep(0.002)

    async def _ask(self, port: int, question: bytes) -> None:
        while self._idle[port]:
            reader, writer = self._idle[port].pop()
            if not reader.at_eof():
                break
            await closed(writer)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        keep = False
        try:
            writer.write(question)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 "), head
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
            self.answered += 1
            keep = b"connection: close" not in head
        finally:
            if keep:
                self._idle[port].append((reader, writer))
            else:
                await closed(writer)

    async def close(self) -> None:
        for pool in self._idle.values():
            for _, writer in pool:
                await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_rolling_restarts_behind_a_balancer_that_keeps_connections_lose_nothing(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    environments = [
        stack_env(upstream, session_store, PORT=str(free_port()), DRAIN_SECONDS="1.5") for _ in range(2)
    ]
    gateways = [await asyncio.to_thread(start_gateway, env, tmp_path) for env in environments]
    balancer = Balancer([gateway.port for gateway in gateways])
    running = [asyncio.create_task(balancer.look())]
    running += [asyncio.create_task(balancer.client(access_token())) for _ in range(CLIENTS)]
    try:
        for restart in range(6):
            place = restart % 2
            assert await asyncio.to_thread(gateways[place].stop, timeout=20) == 0
            gateways[place] = await asyncio.to_thread(start_gateway, environments[place], tmp_path)
            async with asyncio.timeout(10):
                while len(balancer.ready) < 2:
                    await asyncio.sleep(0.02)
    finally:
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        await balancer.close()
        for gateway in gateways:
            await asyncio.to_thread(gateway.stop)
    assert [each for each in ended if not isinstance(each, asyncio.CancelledError)] == []
    assert balancer.lost == []
    assert balancer.answered > 500


@pytest.fixture
def draining(tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore) -> GatewayProcess:
    """One that would accept for a minute more."""
    return start_gateway(stack_env(upstream, session_store, DRAIN_SECONDS="60", WORKERS="2"), tmp_path)


def not_ready(gateway: GatewayProcess) -> bool:
    return ask(gateway.port, READY).status == 503


def test_it_accepts_and_answers_while_it_says_that_it_is_going(draining: GatewayProcess) -> None:
    try:
        with (
            socket.create_connection(("127.0.0.1", draining.port), 5) as idle,
            socket.create_connection(("127.0.0.1", draining.port), 5) as used,
        ):
            for each in (idle, used):
                each.sendall(LIVE)
                assert b"connection: close" not in each.recv(65536).lower()
            draining.process.send_signal(signal.SIGTERM)
            poll(lambda: all(not_ready(draining) for _ in range(20)))
            reply = ask(draining.port, LIVE)
            assert reply.status == 200
            assert reply.header("connection") == "close"
            used.sendall(LIVE)
            assert b"connection: close" in used.recv(65536).lower()
            assert used.recv(1) == b""
            idle.settimeout(0.3)
            with pytest.raises(TimeoutError):  # open still, until it has had its answer
                idle.recv(1)
    finally:
        draining.process.send_signal(signal.SIGTERM)  # the second one
        assert draining.process.wait(10) == 0


@pytest.mark.parametrize(
    "signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)]
)
def test_ctrl_c_and_a_second_stop_do_not_wait_for_balancers(
    draining: GatewayProcess, signals: tuple[signal.Signals, ...]
) -> None:
    for number in signals[:-1]:
        draining.process.send_signal(number)
        poll(lambda: not_ready(draining))
    began = time.monotonic()
    assert draining.stop(signals[-1], timeout=20) == 0
    assert time.monotonic() - began < 10


async def test_whoever_was_let_in_is_heard(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    """A balancer without health checks goes on until it is refused, and may send no POST again that it has written."""
    body = b'{"name":"rye"}'
    head = (
        b"POST /api/v1/inventory/items HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\n" % access_token()
    )
    post = head + b"content-length: %d\r\n\r\n" % len(body) + body
    lost: list[str] = []
    answered = 0

    async def client(port: int) -> None:
        nonlocal answered
        while True:
            try:
                # The longer one waits to be let in, the sooner it is refused.
                async with asyncio.timeout(3):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            try:
                writer.write(post)
                line = await reader.readline()
                assert b" 200 " in line, line
                answered += 1
            except (OSError, AssertionError) as error:
                lost.append(repr(error))
            finally:
                await closed(writer)

    for _ in range(4):
        env = stack_env(upstream, session_store, DRAIN_SECONDS="0.5", WORKERS="2")
        gateway = await asyncio.to_thread(start_gateway, env, tmp_path)
        clients = [asyncio.create_task(client(gateway.port)) for _ in range(3 * CLIENTS)]
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(gateway.stop, timeout=20) == 0
        await asyncio.gather(*clients)
    assert lost == []
    assert answered > 100
