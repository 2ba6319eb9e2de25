"""Redeeming a ticket in the authentication stage: who opens this stream or socket, and in which tenant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable

from kernel.exchange.exchange import Exchange
from kernel.http.addresses import address_key
from kernel.http.cookies import cookie
from kernel.http.problems import TENANT_FORBIDDEN, TENANT_INVALID, GatewayError
from kernel.identity.identity import Identity
from kernel.identity.tickets import RESUME_SECONDS, Holder
from kernel.primitives.tenant_id import canonical
from kernel.routing.catalog import ALERT_STREAM, RouteRow
from kernel.state import State

# Set by a stream's first answer; with the ticket it lets the same browser reconnect.
_COOKIE = b"alerts_resume"
_COOKIE_FORM = re.compile(rb"[A-Za-z0-9_-]{43}")

# An identity, or the id of a demo session.
Redeem = Callable[[Exchange, bytes], Awaitable[Identity | str]]


def make(state: State, row: RouteRow) -> Redeem:
    """How a browser's route takes tickets.

    Raises, when awaited:
        GatewayError: TICKET_INVALID, STORE_UNAVAILABLE, TENANT_FORBIDDEN for another tenant than the ticket's, and the
            TokenError of a token that is no longer accepted.
    """
    tickets = state.tickets
    segments = [part for part in row.pattern.split("/") if part.startswith("{")]
    place = segments.index("{tenant_id}") if "{tenant_id}" in segments else -1
    resumes = row.handler == ALERT_STREAM

    async def redeem(x: Exchange, ticket: bytes) -> Identity | str:
        redeemed = await tickets.redeem(ticket, _holder(x) if resumes else None)
        asked = x.params[place] if place >= 0 else x.captured.get(b"x-tenant-id")
        if asked is not None:
            try:
                tenant = canonical(asked.decode("latin-1"))
            except ValueError as error:
                raise GatewayError(TENANT_INVALID(f"{error}.")) from None
            if tenant != redeemed.tenant:
                raise GatewayError(TENANT_FORBIDDEN("The ticket was made for another tenant."))
        if redeemed.tenant:
            x.captured[b"x-tenant-id"] = redeemed.tenant.encode()
        if redeemed.cookie:
            # As the client spells it: browsers compare the paths of cookies byte for byte.
            path = row.pattern if place < 0 else row.pattern.replace("{tenant_id}", x.params[place].decode())
            x.extra.append(_set_cookie(redeemed.cookie, path, x.secure))
        return redeemed.session if redeemed.identity is None else redeemed.identity

    return redeem


def _holder(x: Exchange) -> Holder:
    captured = x.captured
    given = cookie(captured[b"cookie"], _COOKIE) if b"cookie" in captured else None
    # A browser with several streams has one cookie for all of them.
    known = given.decode() if given is not None and _COOKIE_FORM.fullmatch(given) else ""
    origin = captured.get(b"origin")
    if origin is None:
        return Holder(known, "")
    parts = (origin, captured.get(b"user-agent", b""), address_key(x.client_ip).encode())
    return Holder(known, hashlib.sha256(b"\n".join(parts)).hexdigest())


def _set_cookie(value: str, path: str, secure: bool) -> tuple[bytes, bytes]:
    text = f"{_COOKIE.decode()}={value}; Max-Age={RESUME_SECONDS}; Path={path}; HttpOnly; SameSite=Strict"
    return b"set-cookie", (text + "; Secure" if secure else text).encode()
