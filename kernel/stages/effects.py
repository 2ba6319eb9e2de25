"""Effects: what a service's 2xx answer makes the gateway do, before the client sees the answer.

A row of the catalogue names its effect. By the time the client reads "logged out", no worker takes its token any more.
An effect never fails the request: what it stands for has already happened behind the gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange, Handler
from kernel.routing.catalog import DEMO_CREATED, LOGOUT, SUBSCRIPTION_CHANGED
from kernel.stages.authenticate.refresh import presented
from kernel.state import State

Effect = Callable[[Exchange], Awaitable[None]]
BodyEffect = Callable[[Exchange, bytes], Awaitable[None]]

# Of an answer's body that an effect reads.
_MOST = 64 * 1024


def _logout(state: State) -> Effect:
    """Refuse the presented token from now on, everywhere, and go on with no session by way of its refresh token."""

    async def logout(x: Exchange) -> None:
        identity = x.caller
        if identity.jti and not await state.revocations.revoke(identity.jti, identity.exp):
            state.log.warning("revocation waits for the store", request_id=x.request_id)
        refresh_token = presented(x)
        if refresh_token is not None:
            await state.authority.end_session(refresh_token)

    return logout


def _subscription_changed(state: State) -> Effect:
    """Make the tokens that were issued for the tenant until now stale."""

    async def subscription_changed(x: Exchange) -> None:
        if x.tenant and not await state.tenants.note_changed(x.tenant):
            state.log.warning("subscription change waits for the store", request_id=x.request_id)

    return subscription_changed


def _demo_created(state: State) -> BodyEffect:
    """Mark the new session's tenant before anybody knows of it."""

    async def demo_created(x: Exchange, body: bytes) -> None:
        await state.demo.created(body)

    return demo_created


BODY_EFFECTS: dict[str, Callable[[State], BodyEffect]] = {DEMO_CREATED: _demo_created}
EFFECTS: dict[str, Callable[[State], Effect]] = {
    LOGOUT: _logout,
    SUBSCRIPTION_CHANGED: _subscription_changed,
}


def attached(state: State, name: str, handler: Handler) -> Handler:
    """`handler` with the effect that a row names."""
    if name in BODY_EFFECTS:
        return _reading(BODY_EFFECTS[name](state), handler)
    return _following(EFFECTS[name](state), handler)


def _reading(effect: BodyEffect, handler: Handler) -> Handler:
    """`handler`, with `effect` run on the body of a 2xx answer before the client has all of it; longer ones are not read."""

    async def handle(x: Exchange) -> None:
        send = x.send
        parts: list[bytes] | None = None

        async def after_effect(message: Message) -> None:
            nonlocal parts
            if message["type"] == "http.response.start":
                parts = [] if 200 <= message["status"] < 300 else None
            elif parts is not None:
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > _MOST:
                    parts = None
                elif not message.get("more_body", False):
                    await effect(x, b"".join(parts))
            await send(message)

        x.send = after_effect
        x.lane = None  # the effect is waited for
        rest = handler(x)
        assert rest is not None
        await rest

    return handle


def _following(effect: Effect, handler: Handler) -> Handler:
    """`handler`, with `effect` run once its answer is known to be 2xx and before the client gets it.

    PERF: the response is intercepted per exchange, so that routes without an effect pay nothing.
    """

    async def handle(x: Exchange) -> None:
        send = x.send

        async def after_effect(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                await effect(x)
            await send(message)

        x.send = after_effect
        x.lane = None  # the effect is waited for
        rest = handler(x)
        assert rest is not None
        await rest

    return handle
