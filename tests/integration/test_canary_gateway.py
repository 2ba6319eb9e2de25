"""A canary in a running gateway: its share changed under load, its state shown, its sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port, start_gateway, workers
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder, recording_upstream
from tests.support.stack import lone_env, stack_env
from tests.support.tokens import access_token

ITEMS = "/api/v1/inventory/items"
SOCKET = "/api/v1/training/ws"


def told(gateway: GatewayProcess, target: bytes) -> bytes:
    reply = ask(gateway.port, request(target=target, headers=[]))
    assert reply.status == 200
    return reply.body


class Load:
    """Clients that ask on and on, each on a connection it keeps, reads and writes of many users."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.statuses: Counter[int | str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._tokens = [access_token(user_id=f"user-{number}").decode() for number in range(40)]
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        place = number
        while not self._over.is_set():
            place += 1
            headers = {"Authorization": f"Bearer {self._tokens[place % len(self._tokens)]}"}
            try:
                if place % 3:
                    connection.request("GET", ITEMS, headers=headers)
                else:
                    connection.request("POST", ITEMS, b'{"name": "flour"}', headers)
                response = connection.getresponse()
                response.read()
                self.statuses[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[repr(error)] += 1
                connection.close()
        connection.close()


@pytest.mark.slow
def test_a_share_is_changed_under_load_without_a_lost_request(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    file = tmp_path / "gateway.toml"

    def table(percent: float | None, canary: Recorder) -> None:
        text = ""
        if percent is not None:
            text = f'[services.inventory.canary]\nurl = "{canary.url}"\npercent = {percent}\n'
        file.write_text(text)

    with recording_upstream() as canary:
        table(0, canary)
        env = stack_env(upstream, session_store, WORKERS="2", GATEWAY_CONFIG=str(file))
        gateway = start_gateway(env, tmp_path)
        load = Load(gateway.port)

        def shares() -> tuple[int, int]:
            """How many of the next two hundred requests each has."""
            upstream.clear()
            canary.clear()
            poll(lambda: len(upstream.requests) + len(canary.requests) >= 200, seconds=30)
            return len(upstream.requests), len(canary.requests)

        def become(percent: float | None) -> None:
            before = workers(gateway)
            table(percent, canary)
            gateway.process.send_signal(signal.SIGHUP)
            poll(lambda: set(now := workers(gateway)).isdisjoint(before) and len(now) == 2, seconds=40)

        try:
            with load.running():
                assert shares()[1] == 0
                become(50)
                assert min(shares()) > 0
                become(100)
                assert shares()[0] == 0
                become(None)
                assert shares()[1] == 0
        finally:
            gateway.stop()
        assert set(load.statuses) == {200}, load.statuses
        assert load.statuses.total() >= 800


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    """The service's and its canary's; nobody listens there yet."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def gateway(
    gateway_factory: GatewayFactory,
    session_store: EmbeddedStore,
    ports: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    config = tmp_path_factory.mktemp("canary") / "gateway.toml"
    config.write_text(
        f'[services.training.canary]\nurl = "http://127.0.0.1:{ports[1]}"\npercent = 0\nheader = "x-canary"\n'
        f'[services.training.mirror]\nurl = "http://127.0.0.1:{ports[1]}"\npercent = 100\n'
    )
    return gateway_factory(lone_env(ports[0], session_store, GATEWAY_CONFIG=str(config)))


@contextlib.asynccontextmanager
async def listening(port: int, name: str) -> AsyncIterator[list[str | None]]:
    """A service that says its name; yields what it was told of `x-canary`."""
    seen: list[str | None] = []

    async def say(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers.get("x-canary"))
        await connection.send(name)

    async with serve(say, "127.0.0.1", port):
        yield seen


async def who(gateway: GatewayProcess, wish: str) -> str | bytes:
    headers = {"Authorization": "Bearer " + access_token().decode(), "x-canary": wish}
    async with connect(
        f"ws://127.0.0.1:{gateway.port}{SOCKET}", proxy=None, additional_headers=headers
    ) as client:
        return await client.recv()


async def test_sockets_go_to_a_canary_too_and_to_the_service_when_it_is_away(
    gateway: GatewayProcess, ports: tuple[int, int]
) -> None:
    async with listening(ports[0], "service") as service:
        async with listening(ports[1], "canary") as canary:
            assert await who(gateway, "always") == "canary"
            assert await who(gateway, "never") == "service"
        assert await who(gateway, "always") == "service"
        assert canary == [None]
        assert service == [None, None]
    # Where neither is, the answer is the service's absence.
    with pytest.raises(InvalidStatus) as caught:
        await who(gateway, "always")
    assert caught.value.response.status_code == 502
    numbers = told(gateway, b"/metrics").decode()
    fallbacks = 'gateway_canary_fallbacks_total{reason="upstream-connect",service="training"}'
    assert f"{fallbacks} 2.0\n" in numbers


def test_how_a_canary_is_is_shown_beside_its_service(gateway: GatewayProcess, ports: tuple[int, int]) -> None:
    def services() -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads(told(gateway, b"/api/v1/health"))["services"]
        return found

    poll(lambda: services()["training-canary"]["status"] == "unhealthy", seconds=20)
    assert services()["training-canary"]["last_error"]
    # Nobody waits for a mirror: it makes no gateway ill.
    assert "training-mirror" not in services()
    numbers = told(gateway, b"/metrics").decode()
    for name in ("training", "training-canary", "training-mirror"):
        assert f'gateway_breaker_state{{service="{name}",state="closed"}}' in numbers
        assert f'gateway_pool_waiting{{service="{name}"}}' in numbers
        assert f'gateway_replicas{{service="{name}"}}' in numbers
