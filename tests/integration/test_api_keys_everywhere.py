"""API keys on two gateways of two workers each, on one store: made on one, good on all, and gone from all at once."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.api_keys import KEYS
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayFactory, workers
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

# The promise is 100 ms from the answer to the revocation; a busy machine gets more.
PROMISED = 0.1
PATIENCE = 5.0


class Line:
    """A kept connection, and so one worker of a gateway."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(
        self, method: str, target: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        raw = None if body is None else json.dumps(body)
        self.connection.request(
            method, target, raw, {name.replace("_", "-"): each for name, each in headers.items()}
        )
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else {}

    def status(self, key: str) -> int:
        return self.ask("GET", "/api/v1/inventory/items", x_api_key=key)[0]


@pytest.fixture(scope="module")
def stacks(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> tuple[Stack, Stack]:
    env = stack_env(upstream, session_store, WORKERS="2")
    return Stack(gateway_factory(env), upstream), Stack(gateway_factory(env), upstream)


@pytest.fixture
def lines(stacks: tuple[Stack, Stack]) -> Iterator[list[Line]]:
    """Enough connections that every worker has some."""
    opened = [Line(stack.port) for stack in stacks for _ in range(8)]
    yield opened
    for line in opened:
        line.connection.close()


def owner() -> str:
    return f"Bearer {access_token().decode()}"


def manage(line: Line, method: str, target: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Once more while a busy machine's store takes longer than the gateway waits for it."""
    return poll(
        lambda: reply if (reply := line.ask(method, target, body, authorization=owner()))[0] != 503 else None
    ) or (
        0,
        {},
    )


def everywhere(lines: list[Line], key: str, status: int) -> Callable[[], bool]:
    return lambda: all(line.status(key) == status for line in lines)


def test_made_on_one_rotated_with_an_overlap_and_revoked_everywhere_at_once(
    stacks: tuple[Stack, Stack], lines: list[Line]
) -> None:
    assert [len(workers(stack.gateway)) for stack in stacks] == [2, 2]
    first, last = lines[0], lines[-1]
    status, made = manage(first, "POST", KEYS, {"name": "POS", "scopes": ["inventory:read"]})
    assert status == 201
    key = made["api_key"]
    poll(everywhere(lines, key, 200))
    # Another gateway rotates it: both secrets are good everywhere.
    status, rotated = manage(last, "POST", f"{KEYS}/{made['key_id']}/rotate", {"overlap_seconds": 600})
    assert (status, rotated["key_id"]) == (200, made["key_id"])
    newer = rotated["api_key"]
    assert newer != key
    poll(everywhere(lines, key, 200))
    poll(everywhere(lines, newer, 200))
    assert [each["expires_at"] is None for each in rotated["secrets"]] == [True, False]
    # An overlap of nothing ends all but the newest.
    status, final = manage(first, "POST", f"{KEYS}/{made['key_id']}/rotate", {"overlap_seconds": 0})
    assert status == 200
    poll(lambda: all(line.status(old) == 401 for line in lines for old in (key, newer)), PATIENCE)
    newest = final["api_key"]
    poll(everywhere(lines, newest, 200))
    assert manage(last, "DELETE", f"{KEYS}/{made['key_id']}")[0] == 204
    revoked = time.monotonic()
    # Each connection is asked until it refuses: how long the slowest of them went on.
    good_until = revoked
    left = list(lines)
    while left:
        assert time.monotonic() - revoked < PATIENCE, "a worker has not heard of it"
        for line in list(left):
            asked = time.monotonic()
            if line.status(newest) == 401:
                left.remove(line)
            else:
                good_until = max(good_until, asked)
    print(f"the last request that a revoked key passed was sent {(good_until - revoked) * 1000:.1f} ms after")
    for line in lines:
        assert line.ask("GET", "/api/v1/inventory/items", x_api_key=newest)[1]["code"] == "api-key-invalid"
    assert good_until - revoked < PROMISED * 10


def test_when_a_key_was_used_is_written_once_a_minute_and_not_by_requests(
    lines: list[Line], session_store: EmbeddedStore
) -> None:
    status, made = manage(lines[0], "POST", KEYS, {"name": "POS", "scopes": ["*"]})
    assert (status, made["last_used_at"]) == (201, None)
    poll(everywhere(lines[:2], made["api_key"], 200))

    def used() -> Any:
        return manage(lines[-1], "GET", f"{KEYS}/{made['key_id']}")[1]["last_used_at"]

    noted = poll(used)
    assert noted.endswith("Z")
    assert poll(everywhere(lines[:2], made["api_key"], 200))
    assert manage(lines[0], "GET", f"{KEYS}/{made['key_id']}")[1]["secrets"][0]["last_used_at"] is not None


def test_a_stream_that_a_key_opened_ends_when_another_gateway_revokes_it(
    stacks: tuple[Stack, Stack], lines: list[Line]
) -> None:
    status, made = manage(lines[0], "POST", KEYS, {"name": "Wall", "scopes": ["alert-processor:read"]})
    assert status == 201
    key = made["api_key"]

    def opened() -> EventSource | None:
        source = EventSource(stacks[0].port, "/api/v1/alerts/stream", token=None, headers={"X-API-Key": key})
        if source.status == 200:
            return source
        source.close()
        return None

    source = poll(opened)
    assert source is not None
    with source:
        source.ready()
        assert manage(lines[-1], "DELETE", f"{KEYS}/{made['key_id']}")[0] == 204
        message = source.next()
        assert (message.event, message.json) == ("auth-expired", {"code": "api-key-invalid"})
        assert source.until_closed() == []
