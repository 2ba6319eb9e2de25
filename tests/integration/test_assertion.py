"""What services are told of their callers is signed; docs/assertion.md shows how one verifies it, and that very code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jwt
import msgspec
import pytest

from kernel.identity.assertion import Assertions, signers
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, free_port
from tests.support.poll import poll
from tests.support.raw import Reply, ask, request
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import TENANT, access_token, private_pem
from tests.unit.identity.test_assertion import someone, token

PAGE = Path(__file__).parents[2] / "docs" / "assertion.md"
ED = private_pem("ed25519")


def asserted(stack: Stack) -> list[bytes]:
    return [value for name, value in stack.seen().headers if name.lower() == b"x-gateway-assertion"]


@pytest.fixture
def signing(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    changes = {"IDENTITY_ASSERTION": "true", "ASSERTION_PRIVATE_KEY": ED}
    upstream.clear()
    return Stack(gateway_factory(stack_env(upstream, session_store) | changes), upstream)


def key_set(stack: Stack) -> jwt.PyJWKSet:
    reply = ask(stack.port, request("GET", b"/.well-known/jwks.json", []))
    assert (reply.status, reply.header("content-type")) == (200, "application/jwk-set+json")
    return jwt.PyJWKSet.from_dict(msgspec.json.decode(reply.body))


def test_a_service_is_told_who_calls_and_the_client_cannot(signing: Stack) -> None:
    forged = [(b"X-Gateway-Assertion", b"forged"), (b"x_gateway_assertion", b"forged")]
    assert signing.ask(headers=forged).status == 200
    (value,) = asserted(signing)
    (key,) = key_set(signing).keys
    claims = jwt.decode(value, key, algorithms=["EdDSA"], audience="inventory", issuer="bakery-gateway")
    seen = {name.lower(): each.decode() for name, each in signing.seen().headers}
    assert claims["sub"] == seen[b"x-user-id"]
    assert claims["tenant_id"] == seen[b"x-tenant-id"] == TENANT
    assert (claims["role"], claims["tier"]) == (seen[b"x-user-role"], seen[b"x-subscription-tier"])


def test_the_same_one_comes_again_and_another_for_another_service(signing: Stack) -> None:
    values = []
    for target in (b"/api/v1/inventory/a", b"/api/v1/inventory/b", b"/api/v1/sales/c"):
        assert signing.ask(target=target).status == 200
        values += asserted(signing)
        signing.upstream.clear()
    assert values[0] == values[1]
    assert jwt.decode(values[2], options={"verify_signature": False})["aud"] == "sales"


def test_who_has_no_identity_has_no_assertion(signing: Stack) -> None:
    assert signing.ask("POST", b"/api/v1/auth/login", body=b"{}", token=None).status == 200
    assert asserted(signing) == []


def test_off_nothing_is_asserted_or_published_and_what_clients_say_is_dropped(stack: Stack) -> None:
    assert stack.ask(headers=[(b"x-gateway-assertion", b"forged")]).status == 200
    assert asserted(stack) == []
    assert ask(stack.port, request("GET", b"/.well-known/jwks.json", [])).body == b'{"keys":[]}'


def test_an_assertion_is_no_token(signing: Stack) -> None:
    assert signing.ask().status == 200
    (value,) = asserted(signing)
    assert signing.ask(token=value).status == 401


@pytest.fixture
def service(signing: Stack, tmp_path: Path) -> Iterator[int]:
    """The service of docs/assertion.md, as it stands there; its port."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "service.py").write_text(blocks[0])
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"],
        cwd=tmp_path,
        env={**os.environ, "GATEWAY_URL": f"http://127.0.0.1:{signing.port}"},
    )
    try:

        def listens() -> bool | None:
            try:
                return ask(port, request("GET", b"/", [])).status == 404
            except OSError:
                return None

        assert poll(listens)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_the_documented_service_believes_the_gateway_alone(
    signing: Stack,
    service: int,
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
) -> None:
    own = {"IDENTITY_ASSERTION": "true", "ASSERTION_PRIVATE_KEY": ED}
    moved = {"INVENTORY_SERVICE_URL": f"http://127.0.0.1:{service}"}
    through = Stack(gateway_factory(stack_env(upstream, session_store) | own | moved), upstream)
    reply = through.ask(token=access_token(user_id="ada"))
    assert (reply.status, msgspec.json.decode(reply.body)) == (
        200,
        {"of": TENANT, "for": "ada", "as": "owner"},
    )

    def straight(*values: str) -> Reply:
        headers = [(b"x-gateway-assertion", value.encode()) for value in values]
        return ask(service, request("GET", b"/api/v1/inventory/items", headers))

    def made(keys: str, service: str = "inventory", age: float = 0.0) -> str:
        import time

        signing_keys, published = signers(keys, ())
        return token(
            Assertions(signing_keys[0], published, lambda: time.time() - age).make(*someone(), service)
        )

    assert straight(made(ED)).status == 200
    head, body, tail = made(ED).split(".")
    for refused in (
        "",
        "forged",
        made(private_pem("ed25519-2")),  # another key
        made(ED, "sales"),  # for another service
        made(ED, age=61),  # replayed a minute later
        f"{head}.{body[:-2]}AA.{tail}",
        access_token().decode(),
    ):
        assert straight(refused).status == 401, refused
