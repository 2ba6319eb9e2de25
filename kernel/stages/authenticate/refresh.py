"""Automatic refresh: an expired session whose client has a refresh token goes on, with new tokens, in the same request.

The refresh token comes in `X-Refresh-Token` or in the auth service's cookie. The new tokens go back in
`X-New-Access-Token` and `X-New-Refresh-Token`, or in the cookies that the auth service sets.

Logging out ends the session, whichever of its tokens come with the request: the auth service is told the refresh token that
stands for it now, in `X-Refresh-Token` and as its cookie.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from kernel.exchange.exchange import Exchange
from kernel.http.cookies import REFRESH_TOKEN, cookie, without
from kernel.identity.identity import Identity
from kernel.identity.refresh import AnotherSession, Refreshed
from kernel.routing.catalog import LOGOUT, RouteRow
from kernel.state import State

_REFRESH_TOKEN = re.compile(r"[!-~]{1,4096}")
# RFC 6265 section 4.1.1: what no cookie's value holds.
_NO_COOKIE = re.compile(rb'[",;\\]')

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
        try:
            refreshed = await authority.refresh(expired, refresh_token, by_cookie=by_cookie)
        except AnotherSession as error:
            _hand_back(x, error.refreshed, by_cookie)
            raise
        token = refreshed.access_token.encode()
        # The service gets the token that is good now, once.
        x.lines = [line for line in x.lines if not line.startswith(b"authorization:")]
        x.lines.append(b"authorization: Bearer %b\r\n" % token)
        x.token = token
        if hands_back:
            _hand_back(x, refreshed, by_cookie)
        elif refreshed.refresh_token:
            _pass_on(x, refreshed.refresh_token)
        return refreshed.identity

    return refresh


def make_leave(state: State) -> Callable[[Exchange], Awaitable[None]]:
    """What a logout does before its token is looked at: the service gets the refresh token that is the session's now."""
    current = state.authority.current_refresh_token

    async def leave(x: Exchange) -> None:
        given = presented(x)
        if given is not None and _REFRESH_TOKEN.fullmatch(given):
            _pass_on(x, await current(given))

    return leave


def _pass_on(x: Exchange, refresh_token: str) -> None:
    token = refresh_token.encode()
    lines = [line for line in x.lines if not line.startswith((b"cookie:", b"x-refresh-token:"))]
    lines.append(b"x-refresh-token: %b\r\n" % token)
    cookies = without(x.captured.get(b"cookie", b""), REFRESH_TOKEN)
    if not _NO_COOKIE.search(token):
        cookies += (b"; " if cookies else b"") + REFRESH_TOKEN + b"=" + token
    if cookies:
        lines.append(b"cookie: %b\r\n" % cookies)
    x.lines = lines


def _hand_back(x: Exchange, refreshed: Refreshed, by_cookie: bool) -> None:
    """Put the new tokens on whatever the answer will be: the old ones are spent, also when the request is refused."""
    x.extra.append((b"x-new-access-token", refreshed.access_token.encode()))
    x.extra += [(b"set-cookie", value) for value in refreshed.cookies]
    # SECURITY: what came in an HttpOnly cookie must not become readable by scripts.
    if refreshed.refresh_token and not (by_cookie and refreshed.cookies):
        x.extra.append((b"x-new-refresh-token", refreshed.refresh_token.encode()))
    x.extra.append((b"cache-control", b"no-store"))
