"""Gateway, recording upstream and store, with the environment that ties them together."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayProcess, service_env
from tests.support.raw import Reply, ask, request
from tests.support.recorder import Recorder, Seen
from tests.support.store import RawServer
from tests.support.tokens import SECRET, access_token, public_pem


def stack_env(upstream: Recorder, store: EmbeddedStore | RawServer, **changes: str) -> dict[str, str]:
    """A gateway's environment: every service is `upstream`, tokens are those of tests.support.tokens."""
    return {
        **service_env(upstream.url),
        "REDIS_URL": store.url,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "RATE_LIMIT_REQUESTS": "100000",
        "CORS_ORIGINS": "https://app.example.com,https://*.bakery.example",
        **changes,
    }


def lone_env(port: int, store: EmbeddedStore, **changes: str) -> dict[str, str]:
    """The same for a gateway whose services are whatever listens on `port` when it asks."""
    return {
        **service_env(f"http://127.0.0.1:{port}"),
        "REDIS_URL": store.url,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "RATE_LIMIT_REQUESTS": "1000000",
        **changes,
    }


@dataclass
class Stack:
    """A gateway and the upstream behind all of its services."""

    gateway: GatewayProcess
    upstream: Recorder

    @property
    def port(self) -> int:
        return self.gateway.port

    def ask(
        self,
        method: str = "GET",
        target: bytes = b"/api/v1/inventory/items",
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        token: bytes | None = b"",
        host: bytes | None = b"gateway.test",
    ) -> Reply:
        """One request; `token` b"" is a good access token, None sends none."""
        if token == b"":
            token = access_token()
        sent = list(headers or [])
        if token is not None:
            sent.insert(0, (b"Authorization", b"Bearer " + token))
        return ask(self.port, request(method, target, sent, body, host))

    def seen(self) -> Seen:
        """The one request that reached the upstream."""
        assert len(self.upstream.requests) == 1, self.upstream.requests
        return self.upstream.requests[0]
