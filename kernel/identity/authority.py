"""Authority: from a token's bytes to an identity, by every means there is.

In this order, each costing more than the one before:
1. the worker's own cache (a dict hit, asked by whoever has the token: `cached`),
2. the second-level cache in the store, filled by whichever worker verified the token first,
3. the local keys; an unknown `kid` has its issuer's key sets fetched, at most once in five seconds,
4. without a local key for users: the auth service's word.

An expired token whose signature is good can be exchanged for a new one with a refresh token.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from kernel.http.problems import AUTH_UNAVAILABLE, TOKEN_KEY_UNKNOWN, TOKEN_SIGNATURE, GatewayError
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.jwks import JwksSource
from kernel.identity.jws import parse
from kernel.identity.l2_cache import encode, fingerprint, lifetime, restore
from kernel.identity.refresh import Refreshed, Refresher, issued_refresh_token
from kernel.identity.remote import RemoteVerifier
from kernel.identity.shared_refresh import SharedRefresh
from kernel.identity.stamp import Stamp
from kernel.identity.tokens import Verifier
from kernel.store.errors import StoreError
from kernel.store.keys import auth_token
from kernel.store.redis import Store
from kernel.store.wait_budget import answered
from kernel.telemetry.metrics import Metrics

# A page that fires requests for ten seconds while its session is refreshed again and again.
_SPENT_IN_A_ROW = 4


class Authority:
    """One a worker. `sources` supply `verifier` with keys; `remote` asks the auth service instead; without a `stamp` there
    is no second-level cache.

    The two refreshers differ in how they present the refresh token: in the body alone, or as the cookie it came in.
    """

    def __init__(
        self,
        verifier: Verifier,
        store: Store,
        metrics: Metrics,
        *,
        sources: Sequence[JwksSource] = (),
        remote: RemoteVerifier | None = None,
        stamp: Stamp | None = None,
    ) -> None:
        self._stamp = stamp
        self.verifier = verifier
        self.cached = verifier.cached
        self.sources = tuple(sources)
        self._store = store
        self._metrics = metrics
        self._remote = remote
        self._refreshers: dict[bool, Refresher] = {}
        self._shared: SharedRefresh | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._refreshes: defaultdict[str, int] = defaultdict(int)

    def refresh_with(self, by_body: Refresher, by_cookie: Refresher, shared: SharedRefresh) -> None:
        """Offer automatic refresh; `shared` knows what other workers were told."""
        self._refreshers = {False: by_body, True: by_cookie}
        self._shared = shared

    def start(self) -> None:
        """Fetch the key sets, now and ever again. Nothing waits for them; see `ready`."""
        self._tasks = [asyncio.create_task(source.run()) for source in self.sources]

    @property
    def ready(self) -> bool:
        """False until the first keys have come, when they can only come from a key set."""
        return not self.sources or self.verifier.keys.verifies_users

    async def recognise(self, token: bytes) -> Identity:
        """Whose `token` is that this worker has not verified yet.

        Raises:
            TokenError: it is refused.
            GatewayError: AUTH_UNAVAILABLE.
        """
        verifier = self.verifier
        verifier.refusals.check(token, verifier.clock())
        # What is no token costs no trip.
        parse(token)
        identity = await self._recall(token) or verifier.cached(token)
        if identity is not None:
            self._metrics.auth_cache_hits += 1
            return identity
        self._metrics.auth_cache_misses += 1
        return await self.verify(token)

    async def verify(self, token: bytes) -> Identity:
        """The same without looking into the store first. Raises as `recognise` does."""
        try:
            identity = await self._prove(token)
        except TokenError as error:
            if not self.sources or error.kind not in (TOKEN_KEY_UNKNOWN, TOKEN_SIGNATURE):
                raise
            # With a bad signature: keys without a name were tried for want of the one that the token names.
            wanted = self.verifier.may_learn(parse(token))
            if wanted is None:
                raise
            if not await self._seek(*wanted):
                if not self.ready:
                    raise GatewayError(AUTH_UNAVAILABLE("No keys have been loaded yet.")) from None
                raise
            identity = await self._prove(token)
        self._remember(token, identity)
        return identity

    async def refresh(self, expired: Identity, refresh_token: str, *, by_cookie: bool) -> Refreshed:
        """New tokens for an `expired` session. Raises as `Refresher.refresh` does."""
        try:
            refreshed = await self._refreshers[by_cookie].refresh(expired, refresh_token)
        except TokenError:
            self._refreshes["refused"] += 1
            raise
        except GatewayError:
            self._refreshes["unavailable"] += 1
            raise
        self._refreshes["refreshed"] += 1
        return refreshed

    async def current_refresh_token(self, given: str) -> str:
        """The refresh token that stands for the session of `given` now: another one, when it was just spent."""
        for _ in range(_SPENT_IN_A_ROW):
            found = next((got for each in self._refreshers.values() if (got := each.successor(given))), None)
            if found is None and self._shared is not None:
                answer = await self._shared.told(given)
                found = issued_refresh_token(answer) if answer is not None else None
            if found is None:
                break
            given = found
        return given

    async def end_session(self, refresh_token: str) -> None:
        """No request goes on by way of this refresh token any more, however lately it was exchanged."""
        for refresher in self._refreshers.values():
            refresher.forget(refresh_token)
        if self._shared is not None:
            await self._shared.forget(refresh_token)

    def families(self) -> dict[str, Any]:
        """For metrics."""
        fetches: dict[str, int] = {}
        if self.sources:
            fetches = {
                "ok": sum(source.loads for source in self.sources),
                "failed": sum(source.failures for source in self.sources),
            }
        return {"gateway_jwks_fetches_total": fetches, "gateway_auth_refreshes_total": dict(self._refreshes)}

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts = (*self.sources, self._remote, *self._refreshers.values())
        await asyncio.gather(*(part.close() for part in parts if part is not None))

    async def _prove(self, token: bytes) -> Identity:
        return await self._remote.verify(token) if self._remote else self.verifier.verify(token)

    async def _seek(self, kid: str | None, issuer: str | None) -> bool:
        sources = [source for source in self.sources if source.issuer in (None, issuer)]
        return any(await asyncio.gather(*(source.seek(kid) for source in sources)))

    async def _recall(self, token: bytes) -> Identity | None:
        """What some worker verified. The store's trouble is never the client's."""
        stamp = self._stamp
        if stamp is None or not self._store.connected:
            return None
        name = fingerprint(token)
        try:
            reply = self._store.execute("GET", auth_token(name))
            stored = reply.result() if await answered(reply, self._store.timeout) else None
        except StoreError:
            return None
        raw = stamp.take(name, stored) if stored else None
        return restore(raw, token, self.verifier) if raw is not None else None

    def _remember(self, token: bytes, identity: Identity) -> None:
        """Tell the other workers; nothing waits for it. Only what was accepted gets here."""
        seconds = lifetime(identity, self.verifier.clock())
        if not seconds or self._stamp is None:
            return
        name = fingerprint(token)
        value = self._stamp.put(name, encode(identity))
        try:
            reply = self._store.execute("SET", auth_token(name), value, "EX", seconds)
        except StoreError:
            return
        reply.add_done_callback(_forget)


def _forget(reply: Future[Any]) -> None:
    """Take note of a failure, or asyncio reports it as one that nobody saw."""
    if not reply.cancelled():
        reply.exception()
