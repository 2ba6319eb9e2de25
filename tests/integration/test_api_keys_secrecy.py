"""Nobody reads a key anywhere: every byte that a gateway and its files put out is searched for the keys that it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from kernel.primitives.api_key import new_key
from kernel.server.embedded_store import EmbeddedStore
from tests.support.api_keys import KEYS
from tests.support.gateway import start_gateway
from tests.support.poll import poll
from tests.support.raw import ask, request, send_raw
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token, service_token

ITEMS = b"/api/v1/inventory/items"


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def stored(store: EmbeddedStore) -> bytes:
    """All there is in the store, names and values."""
    found = b""
    with redis.Redis.from_url(store.url) as client:
        for name in client.scan_iter():
            kind = client.type(name)
            found += name
            if kind == b"string":
                found += client.get(name) or b""
            elif kind == b"hash":
                found += repr(client.hgetall(name)).encode()
            elif kind == b"zset":
                found += repr(client.zrange(name, 0, -1)).encode()
            else:
                found += client.dump(name) or b""
    return found


@pytest.mark.parametrize("pretty", ["false", "true"])
def test_no_byte_of_a_key_is_put_out(
    upstream: Recorder, store_server: EmbeddedStore, tmp_path: Path, pretty: str
) -> None:
    upstream.clear()
    files = tmp_path / "files"
    files.mkdir()
    env = stack_env(
        upstream,
        store_server,
        LOG_LEVEL="DEBUG",
        STRUCTLOG_PRETTY_PRINT=pretty,
        AUDIT_LOG_FILE=str(files / "audit.log"),
        TRUSTED_PROXIES="127.0.0.1/32",
        TMPDIR=str(tmp_path),
        AUDIT_ALL="true",
        CAPTURE_FILE=str(files / "capture.ndjson"),
        CAPTURE_BODIES="true",
    )
    gateway = start_gateway(env, files)
    answers = b""
    try:
        token = b"Bearer " + access_token()

        def make() -> dict[str, str] | None:
            body = json.dumps({"name": "POS", "scopes": ["inventory:read"]}).encode()
            reply = ask(gateway.port, request("POST", KEYS.encode(), [(b"Authorization", token)], body))
            made: dict[str, str] = json.loads(reply.body)
            return made if reply.status == 201 else None

        made = poll(make)
        assert made is not None
        good, known_id = made["api_key"], made["key_id"]
        bad = good[:-1] + ("a" if good[-1] != "a" else "b")
        wrong, strange = new_key(known_id), new_key("ZZZZZZZZ")
        keys = [each.encode() for each in (good, bad, wrong, strange)]

        def send(method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
            nonlocal answers
            answers += send_raw(gateway.port, request(method, target, headers, body), 1.0)

        for key in keys:
            as_key = [(b"X-API-Key", key)]
            for headers in (
                as_key,
                [*as_key, (b"Authorization", token)],
                [(b"Authorization", b"Bearer " + key)],
                [(b"Authorization", b"ApiKey " + key)],
                [(b"X_API_Key", key)],
                [(b"ApiKey", key), (b"Api-Key", key)],
                [(b"Cookie", b"api_key=" + key)],
                [(b"X-Request-ID", key)],
                [(b"X-Tenant-ID", key), (b"Authorization", token)],
                [(b"X-Tenant-ID", key), (b"Authorization", b"Bearer " + service_token("orders"))],
                [(b"User-Agent", b"pos/1 " + key), *as_key],
                [(b"X-Forwarded-For", key), *as_key],
                [(b"Traceparent", key), (b"X-Demo-Session-Id", key)],
                [(b"Origin", b"https://" + key)],
                [(b"X-Refresh-Token", key)],
                [(b"Idempotency-Key", key), *as_key],
                [*as_key, *as_key],
            ):
                send("GET", ITEMS, headers)
                send("POST", ITEMS, headers, b'{"key": "' + key + b'"}')
            for target in (
                ITEMS + b"?api_key=" + key,
                ITEMS + b"/" + key,
                b"/" + key,
                b"/api/v1/tenants/" + key + b"/inventory/items",
                b"/problems/" + key,
                b"/api/v1/alerts/stream?token=" + key,
                b"/api/v1/training/ws?ticket=" + key,
                KEYS.encode() + b"/" + key,
            ):
                send("GET", target, as_key)
                send("GET", target, [(b"Authorization", token)])
            for body in (
                b'{"name": "' + key + b'"}',
                b'{"' + key + b'": 1, "name": "x", "scopes": ["*"]}',
                b'{"name": "x", "scopes": ["' + key + b'"]}',
                key,
            ):
                send("POST", KEYS.encode(), [(b"Authorization", token)], body)
                send("POST", b"/api/v1/auth/login", [(b"Content-Type", b"application/json")], body)
                send("POST", b"/api/v1/geocode", [(b"Authorization", token)], body)
            send(
                "OPTIONS",
                ITEMS,
                [(b"Origin", b"https://app.example.com"), (b"Access-Control-Request-Headers", key)],
            )
        answers += ask(gateway.port, request("GET", b"/metrics")).body
        answers += ask(gateway.port, request("GET", b"/health")).body
        assert poll(
            lambda: (
                ask(
                    gateway.port,
                    request("DELETE", f"{KEYS}/{known_id}".encode(), [(b"Authorization", token)]),
                ).status
                in (204, 404)
            )
        )
        send("GET", ITEMS, [(b"X-API-Key", good.encode())])
    finally:
        gateway.stop()
    assert b"api-key-invalid" in answers
    kept = contents(tmp_path)
    assert b"request_started" in kept
    assert f"key:{known_id}".encode() in kept
    # What tells the keys from all else: the secret part.
    for key in keys:
        secret = key[13:35]
        at = kept.find(secret)
        assert at < 0, kept[max(0, at - 300) : at + 100]
        assert secret not in stored(store_server), "in the store"
        # The gateway's own answers; a service's answer is the service's.
        own = b"".join(part for part in answers.split(b"HTTP/1.1 ") if b"problem+json" in part)
        assert secret not in own, "in a problem"
    names = {name.lower().replace(b"_", b"-") for seen in upstream.requests for name, _ in seen.headers}
    assert b"x-api-key" not in names, "told to a service"
