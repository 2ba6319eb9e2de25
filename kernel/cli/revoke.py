"""`gateway revoke`: a token that is refused from now on."""

from __future__ import annotations

import argparse
import sys
import time
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from kernel.cli.with_store import record, with_store
from kernel.primitives.api_key import MARK_BYTES

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store

_DAY = 86_400
_LONGEST = 366 * _DAY
_MARK = "revoked by hand"


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Refuse a token from now on: 401 `token-revoked`, in all workers of all gateways on this store within 100 ms; streams and
sockets that it opened end. The token comes on standard input, so that it stays out of the shell's history, and is not
verified: that it is refused does no harm. Of one that is not at hand, its `jti` will do (the audit and access logs have user
and request ids; the auth service knows the rest)."""
    parser.epilog = """\
examples:
  gateway revoke < stolen-token.txt
  gateway revoke --jti 4f0c1ad2 --days 7
"""
    parser.add_argument("token", nargs="?", default="-", metavar="TOKEN", help="- or nothing: standard input")
    parser.add_argument("--jti", type=_jti, metavar="ID", help="the token's id, in place of the token")
    parser.add_argument(
        "--days", type=_days, metavar="N", help="how long such tokens live, with --jti (default: 30)"
    )


class _Subject(NamedTuple):
    jti: str
    seconds: int


def run(args: argparse.Namespace) -> int:
    if args.jti is not None:
        subject: _Subject | str = _Subject(args.jti, (args.days or 30) * _DAY)
    else:
        text = sys.stdin.read() if args.token == "-" else args.token  # noqa: S105
        subject = _of(text.strip().removeprefix("Bearer ").strip().encode("utf-8", "replace"))
    if isinstance(subject, str):
        sys.stderr.write(f"gateway: {subject}\n")
        return 1
    if subject.seconds <= 0:
        sys.stdout.write("gateway: the token has expired: it is refused already\n")
        return 0
    jti, seconds = subject

    async def work(store: Store, settings: Settings) -> int:
        from kernel.store.keys import token_revoked  # noqa: PLC0415

        await store.execute("SET", token_revoked(jti), _MARK, "EX", seconds)
        record(settings, "revoke", subject=jti)
        sys.stdout.write(f"gateway: the token {jti} is refused, for {seconds} s\n")
        return 0

    return with_store(work)


def _of(token: bytes) -> _Subject | str:
    """What to refuse; or what is wrong with the token, none of which is said."""
    from kernel.identity.cache import name_without_jti  # noqa: PLC0415
    from kernel.identity.claims import decode_claims  # noqa: PLC0415
    from kernel.identity.errors import TokenError  # noqa: PLC0415
    from kernel.identity.jws import parse  # noqa: PLC0415

    if not token:
        return "no token came on standard input"
    if token.startswith(MARK_BYTES):
        return "that is an API key: gateway keys revoke takes it"
    try:
        claims = decode_claims(parse(token).payload)
    except TokenError as error:
        return f"that is no token the gateway would accept: {error.problem.detail or error.kind.title}"
    # A second more than its life, since clocks differ; a token that never ends is refused for a year.
    left = min(ceil(claims.exp - time.time()) + 1, _LONGEST)
    return _Subject(claims.jti or name_without_jti(token), left)


def _jti(text: str) -> str:
    if not 0 < len(text) <= 256 or not text.isprintable():
        raise argparse.ArgumentTypeError("1 to 256 printable characters")
    return text


def _days(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 366:
        raise argparse.ArgumentTypeError("whole days, 1 to 366")
    return int(text)
