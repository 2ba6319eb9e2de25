"""What a capture has of exchanges that do not end as most do, through the real server: streams, sockets, reloads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from kernel.app import Truncated
from kernel.exchange.asgi import Message
from kernel.server.embedded_store import EmbeddedStore
from kernel.telemetry.rotating import existing
from tests.support.gateway import (
    GatewayFactory,
    GatewayProcess,
    free_port,
    service_env,
    start_gateway,
    workers,
)
from tests.support.graphql_services import ask as query
from tests.support.graphql_services import running_services
from tests.support.inprocess import local_gateway
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.scripted_upstream import Peer, scripted
from tests.support.stack import lone_env, stack_env
from tests.support.tokens import access_token

ITEMS = "/api/v1/inventory/items"


def entries(file: Path) -> list[dict[str, Any]]:
    lines = b"".join(each.read_bytes() for each in existing(file)).splitlines()
    return [json.loads(line) for line in lines]


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "raw_path": ITEMS.encode(),
        "query_string": b"",
        "headers": [(b"host", b"gateway.test"), (b"authorization", b"Bearer " + access_token())],
        "client": ("192.0.2.1", "4711"),
        **changes,
    }


async def test_an_answer_that_breaks_off_and_a_client_that_leaves(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    file = tmp_path / "capture.ndjson"

    async def breaks_off(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\n", b"half of it"
        )

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def unheard(message: Message) -> None:
        pass

    async with scripted(breaks_off) as upstream:
        env = {**service_env(upstream.url), "CAPTURE_FILE": str(file), "CAPTURE_BODIES": "true"}
        async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
            with pytest.raises(Truncated):
                await gateway.gateway(scope(), leave, unheard)
            half = [*scope()["headers"], (b"content-length", b"9")]
            await gateway.gateway(scope(method="POST", headers=half), leave, unheard)
    broken, gone = entries(file)
    assert (broken["response"]["status"], broken["response"]["content"]["text"]) == (200, "half of it")
    assert (broken["_problem"], broken["_phase"]) == ("upstream-reset", "response-body")
    assert gone["response"]["status"] == 400  # in case that somebody is still there
    assert (gone["_problem"], gone["_ended_by"]) == ("client-gone", "client")


async def test_of_a_stream_the_head_is_there_at_once_and_nothing_else(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    file = tmp_path / "capture.ndjson"
    over = asyncio.Event()

    async def streams(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"data: hunter2\n\n")
        await over.wait()

    async with scripted(streams) as upstream:
        env = {**service_env(upstream.url), "CAPTURE_FILE": str(file), "CAPTURE_BODIES": "true"}
        async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
            asking = asyncio.create_task(gateway.ask("GET", ITEMS, access_token()))
            async with asyncio.timeout(20):
                while not (file.exists() and file.read_bytes()):
                    await asyncio.sleep(0.01)
            assert not asking.done()
            capture = gateway.state.capture
            assert capture is not None
            assert not capture.recorder._live  # it holds nothing of a stream that lasts
            over.set()
            await asking
    (entry,) = entries(file)
    assert entry["response"]["status"] == 200
    assert "text" not in entry["response"]["content"]


async def test_what_the_gateway_asks_for_a_client_is_no_request_of_a_client(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    file = tmp_path / "capture.ndjson"
    async with running_services() as services:
        env = {**services.env, "GRAPHQL": "true", "CAPTURE_FILE": str(file)}
        async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
            reply = await query(gateway, "{ inventoryItems { id } salesOrders { id } }")
            assert "errors" not in reply.document
            assert gateway.state.capture is not None
            assert not gateway.state.capture.recorder._live
    (entry,) = entries(file)
    assert entry["_route"] == "/api/v1/graphql"


async def test_a_socket_is_its_opening(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore, tmp_path: Path
) -> None:
    file, port = tmp_path / "capture.ndjson", free_port()
    env = lone_env(port, session_store, CAPTURE_FILE=str(file), CAPTURE_BODIES="true")
    gateway = await asyncio.to_thread(gateway_factory, env)
    token = access_token().decode()

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    url = f"ws://127.0.0.1:{gateway.port}/api/v1/training/ws"
    async with serve(echo, "127.0.0.1", port, compression=None):
        async with connect(f"{url}?token={token}", compression=None) as socket:
            await socket.send("hunter2")
            assert await socket.recv() == "hunter2"
        with pytest.raises(InvalidStatus):
            await connect(url)
    await asyncio.to_thread(gateway.stop)
    opened, refused = sorted(entries(file), key=lambda each: each["response"]["status"])
    assert (opened["response"]["status"], refused["response"]["status"]) == (101, 401)
    assert opened["request"]["url"].startswith(
        f"ws://127.0.0.1:{gateway.port}/api/v1/training/ws?token=[redacted:"
    )
    assert b"hunter2" not in file.read_bytes()
    assert token.encode() not in file.read_bytes()


def replaced(gateway: GatewayProcess, before: set[int]) -> bool:
    now = workers(gateway)
    return before.isdisjoint(now) and len(now) == 2


def holds(file: Path, count: int) -> bool:
    return file.exists() and len(file.read_bytes().splitlines()) == count


def test_a_reload_turns_it_on_and_off(
    upstream: Recorder, session_store: EmbeddedStore, tmp_path: Path
) -> None:
    file, config = tmp_path / "capture.ndjson", tmp_path / "gateway.toml"
    config.write_text("")
    env = stack_env(
        upstream,
        session_store,
        GATEWAY_CONFIG=str(config),
        CAPTURE_FILE=str(file),
        CAPTURE_ROUTES="marked",
        WORKERS="2",
    )
    items = request(target=ITEMS.encode(), headers=[(b"authorization", b"Bearer " + access_token())])
    gateway = start_gateway(env, tmp_path)
    try:
        assert ask(gateway.port, items).status == 200
        for capture, count in (("true", 1), ("false", 1), ("true", 2)):
            before = set(workers(gateway))
            config.write_text(f"[services.inventory]\ncapture = {capture}\n")
            gateway.process.send_signal(signal.SIGHUP)
            poll(partial(replaced, gateway, before), seconds=20)
            assert ask(gateway.port, items).status == 200
            poll(partial(holds, file, count))
    finally:
        gateway.stop()
    first, second = entries(file)
    # One run has one key, whichever workers it had.
    assert first["request"]["headers"] == second["request"]["headers"]
    assert len(entries(file)) == 2
    assert os.stat(file).st_mode & 0o777 == 0o600
