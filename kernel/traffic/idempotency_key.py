"""What an Idempotency-Key stands for: whose it is, and which request it was first used for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from secrets import token_hex

from kernel.exchange.asgi import HeaderList
from kernel.exchange.exchange import Exchange


class Keyed:
    """A request under its key. `name` is the record's; `tag` is the same for the same request; `secret` seals its answer.

    SECURITY: whose the key is goes into its name: what somebody else guesses names no record. The secret is made of the key
    and of the whole request, which the store never sees: who reads the store cannot read answers, who writes to it cannot
    make one up, and who guesses a key gets no answer to a request that they do not know.
    """

    __slots__ = ("name", "owner", "renewed", "secret", "tag")

    def __init__(self, x: Exchange, key: bytes, body: bytes) -> None:
        caller = x.caller
        whose = (
            caller.kind,
            caller.user_id,
            caller.service or "",
            caller.demo_session_id or "",
            x.tenant or "",
        )
        name = _digest([*(part.encode("utf-8", "surrogatepass") for part in whose), key])
        fields = (
            _field(x.scope["headers"], b"content-type"),
            _field(x.scope["headers"], b"content-encoding"),
        )
        request = _digest((x.method.encode(), x.raw_path, x.query, *fields, body))
        self.name = name.hex()
        self.tag = _digest((b"tag", name, request)).hex()[:32]
        self.secret = _digest((b"secret", name, key, request))
        # Not the request's id: what a proxy sends again may have the same.
        self.owner = token_hex(8)
        self.renewed = 0.0


def _field(headers: HeaderList, name: bytes) -> bytes:
    return b", ".join(value.strip() for each, value in headers if each == name)


def _digest(parts: Iterable[bytes]) -> bytes:
    """SHA-256 of `parts`, each with its length, so that no two lists are one text."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.digest()
