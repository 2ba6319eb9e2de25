"""Verification keys from a JWKS address (RFC 7517), refreshed in the background.

SECURITY: the answer is from our own auth service, yet may be garbage, huge or late: it can only ever bring public keys
that fit our algorithms; whatever is wrong with it, the last good keys stay. No request waits for the periodic refresh.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from jwt.exceptions import InvalidKeyError
from msgspec import Meta, Raw, Struct

from kernel.identity.keys import ASYMMETRIC, Key, KeyConfigError, KeySet, algorithm, public_key
from kernel.primitives.single_flight import SingleFlight

MAX_JWKS_BYTES = 262_144
MAX_JWKS_KEYS = 64
# Seconds between fetches for the sake of an unknown `kid`, and until one that a fetch did not bring may ask again: at first,
# and at most.
_SEEK_INTERVAL = 5.0
_LONGEST_PAUSE = 60.0
_MAX_SOUGHT = 256
_FIRST_RETRY = 1.0

Fetch = Callable[[], Awaitable[bytes]]
_Member = Annotated[str, Meta(max_length=1400)]  # an RSA modulus of 8192 bits
_Name = Annotated[str, Meta(max_length=256)]


class Jwk(Struct, frozen=True):
    """The public members of a signature key; private ones are not even read."""

    kty: _Name
    kid: _Name | None = None
    alg: _Name | None = None
    use: _Name | None = None
    key_ops: list[str] | None = None
    n: _Member | None = None
    e: _Member | None = None
    crv: _Name | None = None
    x: _Member | None = None
    y: _Member | None = None


class JwkSet(Struct, frozen=True):
    keys: list[Raw]


class JwksError(ValueError):
    """An answer that is no usable key set."""


_set_decoder = msgspec.json.Decoder(JwkSet)
_key_decoder = msgspec.json.Decoder(Jwk)
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


def _algorithm(jwk: Jwk, rsa: str) -> str | None:
    """The one algorithm of a key: its `alg`, else what its type implies. Secrets ("oct") have none here."""
    if jwk.kty == "RSA":
        implied = rsa
    elif jwk.kty == "EC":
        implied = _CURVES.get(jwk.crv or "", "")
    elif jwk.kty == "OKP":
        implied = "EdDSA"
    else:
        return None
    alg = jwk.alg or implied
    return alg if alg in ASYMMETRIC else None


def _key(raw: bytes, rsa: str, issuer: str | None) -> Key | None:
    try:
        jwk = _key_decoder.decode(raw)
    except (ValueError, RecursionError):
        return None
    if jwk.use not in (None, "sig") or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        return None
    alg = _algorithm(jwk, rsa)
    if alg is None:
        return None
    members = {name: getattr(jwk, name) for name in ("kty", "n", "e", "crv", "x", "y") if getattr(jwk, name)}
    try:
        material: Any = algorithm(alg).from_jwk(members)
        return public_key(alg, material, kid=jwk.kid, issuer=issuer)
    except (InvalidKeyError, KeyConfigError, ValueError, TypeError):
        return None


def parse_jwks(raw: bytes, *, rsa: str = "RS256", issuer: str | None = None) -> tuple[Key, ...]:
    """The usable keys of a JWK set; others are passed over (RFC 7517 section 5). Raises `JwksError` when none is.

    `rsa` is the algorithm of RSA keys that name none (RS256, when it is none for such); `issuer` binds the keys to one `iss`.
    """
    if not rsa.startswith(("RS", "PS")):
        rsa = "RS256"
    if len(raw) > MAX_JWKS_BYTES:
        raise JwksError("the key set is too large")
    try:
        entries = _set_decoder.decode(raw).keys
    except (ValueError, RecursionError):
        raise JwksError("the answer is not a JSON key set") from None
    if len(entries) > MAX_JWKS_KEYS:
        raise JwksError(f"the key set has more than {MAX_JWKS_KEYS} keys")
    keys = tuple(key for entry in entries if (key := _key(bytes(entry), rsa, issuer)) is not None)
    if not keys:
        raise JwksError("the key set has no usable signature key")
    return keys


class JwksSource:
    """Keeps `keys` supplied from one address. `fetch` gives the body of a 200 answer or raises.

    `issuer` is the only `iss` the keys are for, None: any. `interval` and `timeout` are seconds; `patience` is how long after
    its start a fetch may hold up the requests whose `kid` is unknown. `clock` is monotonic seconds. `fetched(source)` is
    called after every fetch. `loads` (those that brought keys), `failures` and `last_error` are for health and metrics.
    """

    __slots__ = (
        "_clock", "_fetch", "_fetched", "_flight", "_interval", "_keys", "_patience", "_pauses", "_rsa", "_sought",
        "_started", "_timeout", "_timer", "failures", "fetches", "issuer", "last_error", "loads", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        keys: KeySet,
        *,
        rsa: str = "RS256",
        issuer: str | None = None,
        interval: float = 300.0,
        timeout: float = 5.0,
        patience: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
        fetched: Callable[[JwksSource], None] = lambda source: None,
    ) -> None:
        self.name = name
        self._fetched = fetched
        self._fetch = fetch
        self._keys = keys
        self._rsa = rsa
        self.issuer = issuer
        self._interval = interval
        self._timeout = timeout
        self._patience = patience
        self._clock = clock
        self._flight: SingleFlight[str, bool] = SingleFlight()
        self._sought = float("-inf")
        # An unknown `kid` -> when it may have the keys fetched again, and the pause after that.
        self._pauses: dict[str | None, tuple[float, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        self.fetches = 0
        self.loads = 0
        self.failures = 0
        self.last_error = ""
        keys.expect(issuer)

    @property
    def loaded(self) -> bool:
        return self.loads > 0

    async def run(self) -> None:
        """Refresh for ever; a failing address is tried again after 1, 2, 4, ... seconds, up to the interval."""
        retry = _FIRST_RETRY
        while True:
            if await self.refresh():
                retry, pause = _FIRST_RETRY, self._interval
            else:
                retry, pause = min(retry * 2, self._interval), min(retry, self._interval)
            # Workers and instances that started together must not ask together for ever.
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311

    def refresh(self) -> Awaitable[bool]:
        """Fetch now, or join the fetch under way; True when good keys were taken over. Never raises."""
        return asyncio.shield(self._launch())

    async def seek(self, kid: str | None) -> bool:
        """Look for an unknown `kid`. True when the keys are worth trying again.

        One fetch in five seconds at most. Who comes too early is answered at once, and the fetch made when its time has
        come: a key just put in use is known within five seconds, whatever was invented before. A `kid` that a fetch did not
        bring may ask again after 5, 10, 20, ... seconds, up to a minute: invented ones cost little, however often they come.

        Waits for a fetch until `patience` after its start, so that a hanging address costs nobody more.
        """
        now = self._clock()
        task = self._flight.running("")
        if task is None:
            early = self._sought + _SEEK_INTERVAL - now
            if self._timer is not None or not self._pays(kid, now + max(0.0, early)):
                return False
            if early > 0:
                self._timer = asyncio.get_running_loop().call_later(early, self._seek_late)
                return False
            self._sought = now
            task = self._launch()
        remaining = self._started + self._patience - now
        if remaining <= 0:
            return False
        done, _ = await asyncio.wait({task}, timeout=remaining)
        return bool(done) and not task.cancelled() and task.result()

    def _pays(self, kid: str | None, moment: float) -> bool:
        """Whether `kid` may have the keys fetched at `moment`; then it may not again for a while."""
        due, pause = self._pauses.pop(kid, (moment, _SEEK_INTERVAL))
        if len(self._pauses) >= _MAX_SOUGHT:
            del self._pauses[next(iter(self._pauses))]
        pays = due <= moment
        self._pauses[kid] = (moment + pause, min(2 * pause, _LONGEST_PAUSE)) if pays else (due, pause)
        return pays

    def _seek_late(self) -> None:
        self._timer = None
        self._sought = self._clock()
        self._launch()

    def _launch(self) -> asyncio.Task[bool]:
        if self._flight.running("") is None:
            self._started = self._clock()
        return self._flight.start("", self._load)

    async def _load(self) -> bool:
        self.fetches += 1
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._fetch()
            keys = parse_jwks(raw, rsa=self._rsa, issuer=self.issuer)
        except Exception as error:
            # Whatever the client library raises: the last good keys stay, and the loop goes on.
            self.failures += 1
            self.last_error = str(error) or type(error).__name__
            self._fetched(self)
            return False
        self.loads += 1
        self.last_error = ""
        self._keys.replace(self.name, keys)
        self._fetched(self)
        return True

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._flight.close()
