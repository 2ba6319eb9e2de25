"""Automatic refresh: an expired session whose client has a refresh token goes on, with new tokens, in the same request.

The refresh token comes in `X-Refresh-Token` or in the auth service's cookie. The new tokens go back in
`X-New-Access-Token` and `X-New-Refresh-Token`, or in the cookies that the auth service sets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.exchange.exchange import Exchange
from kernel.http.cookies import REFRESH_TOKEN, cookie
from kernel.identity.identity import Identity
from kernel.identity.refresh import Refreshed
from kernel.routing.catalog import LOGOUT, RouteRow
from kernel.state import State

Refresh = Callable[[Exchange, Identity, str], Awaitable[Identity]]


def presented(x: Exchange) -> str | None:
    """The refresh token that came with the request."""
    given = x.captured.get(b"x-refresh-token")
    if given is None:
        cookies = x.captured.get(b"cookie")
        if cookies is not None:
            given = cookie(cookies, REFRESH_TOKEN)
    return given.decode("latin-1") if given else None


def make(state: State, row: RouteRow) -> Refresh:
    """How a route's requests with an expired token go on.

    Raises, when awaited:
        TokenError: TOKEN_EXPIRED, there is no way to refresh.
        GatewayError: AUTH_UNAVAILABLE.
    """
    authority = state.authority
    # Who logs out gets no new session.
    hands_back = row.effect != LOGOUT

    async def refresh(x: Exchange, expired: Identity, refresh_token: str) -> Identity:
        by_cookie = b"x-refresh-token" not in x.captured
        refreshed = await authority.refresh(expired, refresh_token, by_cookie=by_cookie)
        token = refreshed.access_token.encode()
        # The service gets the token that is good now, once.
        x.lines = [line for line in x.lines if not line.startswith(b"authorization:")]
        x.lines.append(b"authorization: Bearer %b\r\n" % token)
        x.token = token
        if hands_back:
            _hand_back(x, refreshed, by_cookie)
        return refreshed.identity

    return refresh


def _hand_back(x: Exchange, refreshed: Refreshed, by_cookie: bool) -> None:
    """Put the new tokens on whatever the answer will be: the old ones are spent, also when the request is refused."""
    x.extra.append((b"x-new-access-token", refreshed.access_token.encode()))
    x.extra += [(b"set-cookie", value) for value in refreshed.cookies]
    # SECURITY: what came in an HttpOnly cookie must not become readable by scripts.
    if refreshed.refresh_token and not (by_cookie and refreshed.cookies):
        x.extra.append((b"x-new-refresh-token", refreshed.refresh_token.encode()))
    x.extra.append((b"cache-control", b"no-store"))
