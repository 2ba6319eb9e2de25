"""Where keys and verdicts come from: the configured key sets, and the auth service. Assembles a worker's `Authority`."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from kernel.config import Settings
from kernel.config.settings import default_services
from kernel.http.problems import GatewayError
from kernel.identity.authority import Authority
from kernel.identity.jwks import JwksSource
from kernel.identity.keys import KeySet
from kernel.identity.refresh import Refresher
from kernel.identity.remote import Answer, RemoteVerifier
from kernel.identity.shared_refresh import SharedRefresh
from kernel.identity.stamp import Stamp
from kernel.identity.tokens import Verifier
from kernel.routing.catalog import Service
from kernel.store.redis import Store
from kernel.telemetry.log import Log
from kernel.telemetry.metrics import Metrics
from kernel.upstream.balance import Upstream
from kernel.upstream.client import ServiceClient

_PREFIX = "/api/v1/auth"


class MakeUpstream(Protocol):
    """Makes the upstream of the URLs of `service`, or of what is none of the catalogue's."""

    def __call__(self, name: str, urls: tuple[str, ...], service: Service | None = None) -> Upstream: ...


class FetchFailed(Exception):
    """A key set's address answered with something else than a key set."""


def asks_auth(settings: Settings) -> bool:
    """Whether tokens are put to the auth service: when no key for users is configured.

    With the key pair of a development run, when it is said where the auth service is: it signs with a key of its own.
    """
    if settings.jwt_jwks_url:
        return False
    if settings.provisional_keys:
        return settings.services["auth"] != default_services()["auth"]
    return not settings.jwt_public_key


def make_authority(
    settings: Settings,
    verifier: Verifier,
    store: Store,
    metrics: Metrics,
    log: Log,
    client: ServiceClient,
    make_upstream: MakeUpstream,
    stamp: Stamp | None,
) -> tuple[Authority, list[Upstream]]:
    """The authority, and the upstreams of its key sets, which the caller closes."""
    upstreams = [make_upstream("jwks", (source.url,)) for source in settings.jwt_jwks_url]
    sources = [
        _source(settings, place, upstream, verifier.keys, log) for place, upstream in enumerate(upstreams)
    ]

    async def ask(action: str, document: dict[str, str], cookie: str = "") -> Answer:
        headers = ((b"cookie", b"refresh_token=" + cookie.encode()),) if cookie else ()
        body = msgspec.json.encode(document)
        return Answer(*await client.call("auth", "POST", f"{_PREFIX}/{action}", body, headers))

    async def verify(token: str) -> Answer:
        return await ask("verify", {"token": token})

    async def by_body(token: str) -> Answer:
        return await ask("refresh", {"refresh_token": token})

    async def by_cookie(token: str) -> Answer:
        # Both: whichever it reads, it answers with a cookie again.
        return await ask("refresh", {"refresh_token": token}, token)

    remote = RemoteVerifier(verifier, verify) if asks_auth(settings) else None
    authority = Authority(verifier, store, metrics, sources=sources, remote=remote, stamp=stamp)
    shared = SharedRefresh(store, by_body)
    authority.refresh_with(
        Refresher(verifier, shared, authority.verify),
        Refresher(verifier, SharedRefresh(store, by_cookie), authority.verify),
        shared,
    )
    return authority, upstreams


def _source(settings: Settings, place: int, upstream: Upstream, keys: KeySet, log: Log) -> JwksSource:
    configured = settings.jwt_jwks_url[place]
    parts = urlsplit(configured.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    client = ServiceClient({upstream.name: upstream}, None)

    async def fetch() -> bytes:
        try:
            answer = await client.call(upstream.name, "GET", target)
        except GatewayError as error:
            raise FetchFailed(error.problem.detail) from None
        if answer.status != 200:
            raise FetchFailed(f"answered {answer.status}")
        return answer.body

    told: str | None = None

    def fetched(source: JwksSource) -> None:
        """Say when it begins to fail, and when it is well again."""
        nonlocal told
        if source.last_error != told:
            told = source.last_error
            if told:
                log.warning("key set not loaded", host=parts.netloc, reason=told)
            else:
                log.info("key set loaded", host=parts.netloc)

    return JwksSource(
        configured.url,
        fetch,
        keys,
        rsa=settings.jwt_algorithm,
        issuer=configured.issuer,
        fetched=fetched,
    )
