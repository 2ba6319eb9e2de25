"""Attempts: how often passwords may be tried, tokens exchanged and accounts made, by one address and for one account.

Beside the client's limit, which leaves room for hundreds of guesses a minute. Who logs in or refreshes with success pays
nothing: an office full of people may come to work at nine. A new account is paid for.

The account is what the body says, read before the service has it: `email` and `username` of a JSON object or of a form,
whatever its case; of a refresh the token itself. One that says neither is counted by address alone; what cannot be read at
all, or is longer than 16 KiB, shares one account's bucket.

SECURITY: the account's bucket is there whether or not there is such an account, so a refusal tells nobody. Who knows an
e-mail address can use up its owner's attempts for a while; they come back one by one, and open sessions go on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Iterable
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from kernel.config import Settings
from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.peek import peek
from kernel.exchange.phase import Phase
from kernel.http.addresses import address_key
from kernel.http.problems import GatewayError, Problem
from kernel.routing.catalog import REGISTER, Limit, RouteRow
from kernel.stages.limit import Ledger
from kernel.state import State

NAME: Final = Phase("attempts")

_MOST = 16 * 1024
_UNREADABLE = "\n"  # no account is called so
_TWICE = "which one counts is the service's to say"
_DISPOSITION = b"content-disposition:"
_NAME_OF_PART = re.compile(rb'(?i)[; \t]name="?(email|username|refresh_token)"?[ \t]*(?=;|\Z)')


class _Named(Struct):
    """Whatever a login, a registration or a refresh says of whom it is for."""

    email: str | None = None
    username: str | None = None
    refresh_token: str | None = None

    @property
    def accounts(self) -> tuple[str, ...]:
        # SECURITY: of an e-mail address and a name the service may look at either; the other would hide it.
        names = {name.strip().casefold() for name in (self.email, self.username) if name}
        return tuple(sorted(names)) or ((self.refresh_token,) if self.refresh_token else ())


_decoder = msgspec.json.Decoder(_Named)


def accounts_of(content_type: bytes, body: bytes) -> tuple[str, ...]:
    """The accounts that a body names. Raises ValueError and RecursionError when nobody can tell."""
    kind = content_type.lower()
    if kind.startswith(b"application/x-www-form-urlencoded"):
        pairs = parse_qsl(body.decode(), max_num_fields=64)
        counted = [pair for pair in pairs if pair[0] in _Named.__struct_fields__]
        if len(dict(counted)) < len(counted):
            raise ValueError(_TWICE)
        return msgspec.convert(dict(counted), _Named).accounts
    if kind.startswith(b"multipart/form-data"):
        return msgspec.convert(_parts(body), _Named).accounts
    try:
        return _decoder.decode(body).accounts
    except msgspec.ValidationError:
        return ()  # an object of other members, or none
    except (msgspec.DecodeError, UnicodeDecodeError):
        # UTF-16, UTF-32 or a byte order mark: Python's services read them.
        return msgspec.convert(json.loads(body), _Named).accounts


def _parts(body: bytes) -> dict[str, str]:
    """The first lines of a form's parts whose names count. Raises ValueError for two of a name.

    SECURITY: line by line, in linear time: anybody may send this.
    """
    found: dict[str, str] = {}
    name = ""
    in_head = True
    for line in body.split(b"\r\n"):
        if not in_head:
            if name in found:
                raise ValueError(_TWICE)
            found[name] = line.decode()
            name, in_head = "", True
        elif line[: len(_DISPOSITION)].lower() == _DISPOSITION:
            names = _NAME_OF_PART.findall(line)
            if len(names) > 1:
                raise ValueError(_TWICE)
            name = names[0].decode() if names else ""
        elif name and not line:
            in_head = False
    return found


def _limits(settings: Settings) -> tuple[Limit | None, Limit | None]:
    """Of an account, and of an address."""
    window = settings.login_rate_limit_window_seconds
    figures = settings.login_rate_limit_account, settings.login_rate_limit_address
    account, address = (Limit(requests=each, window=window) if each else None for each in figures)
    return account, address


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    account, address = _limits(settings)
    if not row.attempts or not (account or address):
        return ""
    told = [
        f"{limit.text} {whose}"
        for limit, whose in ((account, "for an account"), (address, "of an address"))
        if limit
    ]
    return "; ".join(told) + ("" if row.attempts == REGISTER else "; those that succeed are not counted")


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of login, register and refresh."""
    account_limit, address_limit = _limits(state.settings)
    if not row.attempts or not (account_limit or address_limit):
        return None
    by_account = Ledger("account", account_limit, state) if account_limit else None
    by_address = Ledger("login", address_limit, state) if address_limit else None
    settle = state.limiter.settle
    patience = state.settings.body_timeout_seconds
    forgives = row.attempts != REGISTER
    kind = f"login:{row.attempts}:"

    async def attempts(x: Exchange) -> Problem | None:
        if by_address is not None:
            refused = await _now(by_address.hold(x, kind + address_key(x.client_ip)))
            if refused is not None:
                return refused
        if by_account is not None:
            try:
                body = await peek(x, _MOST, patience)
            except GatewayError as error:
                return error.problem
            for account in _accounts(x, body):
                # SECURITY: an e-mail address or a token: the store sees its digest.
                name = hashlib.sha256(account.encode("utf-8", "surrogatepass")).hexdigest()
                refused = await _now(by_account.hold(x, kind + name))
                if refused is not None:
                    return refused
        if forgives:
            send = x.send

            async def judged(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] < 400:
                    for key in x.deposits:
                        settle(key, back=True)
                    x.deposits = ()
                await send(message)

            x.send = judged
        return None

    return attempts


def _accounts(x: Exchange, body: bytes | None) -> tuple[str, ...]:
    if body == b"":
        return ()
    try:
        return accounts_of(_content_type(x), body) if body is not None else (_UNREADABLE,)
    except (ValueError, RecursionError):
        return (_UNREADABLE,)


def _content_type(x: Exchange) -> bytes:
    headers: Iterable[tuple[bytes, bytes]] = x.scope["headers"]
    return next((value for name, value in headers if name == b"content-type"), b"")


async def _now(outcome: Problem | Awaitable[Problem | None] | None) -> Problem | None:
    return await outcome if isinstance(outcome, Awaitable) else outcome
