"""Tools of the policy tests: a client on one kept connection, and a fence that tells when changes are in force."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import redis

from kernel.store.keys import token_revoked
from tests.support.tokens import service_token

CONTEXT = (
    "x-user-id",
    "x-user-email",
    "x-user-role",
    "x-user-type",
    "x-service-name",
    "x-tenant-id",
    "x-subscription-tier",
    "x-subscription-status",
    "x-is-demo",
    "x-demo-session-id",
    "x-demo-account-type",
    "x-tenant-access-type",
    "x-can-view-children",
    "x-parent-tenant-id",
)


@dataclass
class Answer:
    """`document` is the problem or what the recording upstream saw; header names in lower case."""

    status: int
    headers: dict[str, str]
    document: dict[str, Any]

    @property
    def code(self) -> str:
        """The problem's code, "" when there is none."""
        return str(self.document.get("code", ""))

    @property
    def context(self) -> dict[str, str]:
        """The context headers that reached the upstream."""
        return {name: value for name, value in self.document.get("headers", ()) if name in CONTEXT}


class Client:
    """One connection to a gateway, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(
        self,
        method: str,
        path: str,
        token: bytes | None = None,
        body: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """One request; `headers` with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token.decode()}"
        self._connection.request(method, path, body, sent)
        response = self._connection.getresponse()
        raw = response.read()
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            msgspec.json.decode(raw) if raw else {},
        )

    def close(self) -> None:
        self._connection.close()


@dataclass
class Fence:
    """Waits until every change made in the store before is in force in the (one) worker behind `client`.

    Announcements arrive in order: when the youngest has come, so have all. A key must be known to the worker for its
    change to be announced to it instead of read.
    """

    client: Client
    cli: redis.Redis

    def wait(self) -> None:
        jti = f"fence-{uuid4().hex}"
        token = service_token(jti=jti)
        path = "/api/v1/inventory/fence"
        assert self.client.ask("GET", path, token).code == ""
        self.cli.set(token_revoked(jti), "1")
        # It takes about a millisecond: `poll` would wait much longer.
        deadline = time.monotonic() + 5
        while self.client.ask("GET", path, token).code != "token-revoked":
            assert time.monotonic() < deadline, "the change never came into force"
