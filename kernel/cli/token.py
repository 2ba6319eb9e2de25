"""`gateway token`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.cli.output import Formatter, Style, file_argument, table
from kernel.cli.settings import obtain
from kernel.routing.catalog import TIERS
from kernel.routing.platform import INTERNAL_SERVICES

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.identity.inspect import Finding
    from kernel.identity.keys import KeySet

# To wait for a key set.
_SECONDS = 5.0
_COLOURS = {"ok": "32", "refused": "31", "unknown": "33"}


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make tokens, and tell what the gateway would make of one."
    parser.epilog = """\
examples:
  gateway token inspect < token.txt
  curl -H "Authorization: Bearer $(gateway token mint --service orders)" http://localhost:8000/metrics
  gateway token mint --user u-1 --tenant t-1 --key dev-private-key.pem
"""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    mint = actions.add_parser("mint", help="sign a token", formatter_class=Formatter)
    mint.description = """\
Sign a token and print it, alone. A service's is signed with JWT_SECRET_KEY, a user's with the private key you name: the
gateway itself has none. What it accepts is decided by its configuration; `gateway token inspect` tells."""
    who = mint.add_mutually_exclusive_group(required=True)
    who.add_argument("--service", metavar="NAME", choices=sorted(INTERNAL_SERVICES), help="of the registry")
    who.add_argument("--user", metavar="ID", help="user id")
    mint.add_argument("--key", type=file_argument, metavar="FILE", help="PEM private key, for --user")
    mint.add_argument("--tenant", metavar="ID", help="tenant id; confines a service to this tenant")
    mint.add_argument("--email", default="", help="of the user")
    mint.add_argument("--role", default="owner", help="in the tenant (default: owner)")
    mint.add_argument("--tier", default="professional", choices=TIERS, help="(default: professional)")
    mint.add_argument("--status", default="active", help="of the subscription (default: active)")
    mint.add_argument("--lifetime", type=_lifetime, metavar="SECONDS", help="(default: 3600 and 1800)")
    inspect = actions.add_parser("inspect", help="judge a token field by field", formatter_class=Formatter)
    inspect.description = """\
Tell field by field whether the gateway would accept a token and, if not, why. It is read from standard input, so that it
stays out of the shell's history; neither it nor its signature is printed. Key sets (JWT_JWKS_URL) are fetched; the auth
service is not asked, and revocation and freshness, which are in the store, are not looked at. Exits 0 when it would be
accepted, 1 when not, and 2 when nobody here can tell."""
    inspect.add_argument(
        "token", nargs="?", default="-", metavar="TOKEN", help="- or nothing: standard input"
    )
    inspect.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    loaded = obtain()
    if loaded is None:
        return 1
    return _mint(loaded.settings, args) if args.action == "mint" else _inspect(loaded.settings, args)


def _lifetime(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 366 * 86_400:
        raise argparse.ArgumentTypeError("more than 0 and at most a year")
    return seconds


def _fail(text: str) -> int:
    sys.stderr.write(f"gateway: {text}\n")
    return 1


def _mint(settings: Settings, args: argparse.Namespace) -> int:
    from kernel.identity.keys import KeyConfigError  # noqa: PLC0415
    from kernel.identity.mint import Signer, access_claims, service_claims  # noqa: PLC0415

    common: dict[str, Any] = {
        "issuer": settings.jwt_issuer[0],
        "audience": settings.jwt_audience,
        "tenant_id": args.tenant,
    }
    if args.lifetime is not None:
        common["lifetime"] = args.lifetime
    try:
        if args.service:
            if not settings.jwt_secret_keys:
                return _fail("JWT_SECRET_KEY is not set: it signs service tokens")
            signer = Signer(settings.jwt_secret_keys[0], "HS256")
            claims = service_claims(args.service, **common)
        else:
            if args.key is None:
                return _fail(
                    "--key FILE is needed: a user's token is signed with the auth service's private key"
                )
            signer = Signer(args.key.read_text(), settings.jwt_algorithm)
            rest = {"email": args.email, "tenant_role": args.role, "tier": args.tier, "status": args.status}
            claims = access_claims(args.user, **common, **rest)
    except (KeyConfigError, OSError, UnicodeDecodeError) as error:
        return _fail(f"the key cannot be used: {error}")
    sys.stdout.write(signer.sign(claims) + "\n")
    return 0


def _inspect(settings: Settings, args: argparse.Namespace) -> int:
    from kernel.build import key_set, policy  # noqa: PLC0415
    from kernel.build.identity import asks_auth  # noqa: PLC0415
    from kernel.identity.inspect import inspect  # noqa: PLC0415
    from kernel.identity.tokens import Verifier  # noqa: PLC0415

    text = sys.stdin.read() if args.token == "-" else args.token  # noqa: S105
    token = text.strip().removeprefix("Bearer ").strip()
    if not token:
        return _fail("no token came on standard input")
    keys = key_set(settings)
    missing = _fetch_key_sets(settings, keys)
    if asks_auth(settings):
        missing.append("the auth service is asked about it")
    if not keys and not missing:
        return _fail("no key to check with: set JWT_PUBLIC_KEY, or JWT_SECRET_KEY for service tokens")
    verifier = Verifier(keys, policy(settings))
    report = inspect(token.encode("utf-8", "replace"), verifier, "; ".join(missing))
    refusal = report.refusal
    if args.json:
        answer = {
            "accepted": None if report.open else refusal is None,
            "code": refusal.kind.code if refusal else None,
            "detail": refusal.detail if refusal else None,
            "fields": [finding._asdict() for finding in report.findings],
        }
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
        return 2 if report.open else int(refusal is not None)
    style = Style(sys.stdout)
    verdict = style("1;32", "accepted") if refusal is None else style("1;31", f"refused: {refusal.kind.code}")
    if report.open:
        verdict = style("1;33", "unknown")
    sys.stdout.write(f"{verdict}\n\n")
    rows = [_row(finding) for finding in report.findings]
    lines = table(rows, lambda row: (_COLOURS[row[0]], "1", "", "2"), style)
    sys.stdout.write("\n".join(f"  {line}" for line in lines) + "\n")
    return 2 if report.open else int(refusal is not None)


def _fetch_key_sets(settings: Settings, keys: KeySet) -> list[str]:
    """Let `keys` have those of the key sets; returns what could not be fetched, and why."""
    from kernel.cli.probe import Failed, fetch  # noqa: PLC0415
    from kernel.identity.jwks import MAX_JWKS_BYTES, JwksError, parse_jwks  # noqa: PLC0415

    missing: list[str] = []
    for source in settings.jwt_jwks_url:
        keys.expect(source.issuer)
        try:
            _, _, body = fetch(source.url, "", _SECONDS, most=MAX_JWKS_BYTES + 1)
            keys.replace(source.url, parse_jwks(body, rsa=settings.jwt_algorithm, issuer=source.issuer))
        except (Failed, OSError, JwksError) as error:
            missing.append(f"the key set {source.url} could not be had: {error or type(error).__name__}")
    return missing


def _row(finding: Finding) -> tuple[str, str, str, str]:
    return finding.verdict, finding.field, finding.value, finding.note
