"""`gateway replay`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from kernel.cli.output import Style, file_argument, plural, printable, room

if TYPE_CHECKING:
    from kernel.capture.replay import Found, Place, Report, Result
    from kernel.capture.resend import Credentials

_EVERYWHERE = 80
_MAX_SECRET_FILE = 64 * 1024
_MOST_DETAILS = 10_000
_FOR_TENANT = re.compile(r"([A-Za-z0-9._-]+)=(.*)")
_WORD = re.compile(r"[!-~]+")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Send the requests of a capture to another gateway or service, and tell in what its answers differ. FILE is what CAPTURE_FILE
names, with its rotated ones, or a HAR, a browser's too. No captured credential is sent: --token says with whose rights.
Requests that change something are left out, as are sockets, streams and those whose body was not captured or holds a
secret; how many is told. What is sent has the header `x-replayed: 1`. Exits 0 when all answers are the same, 1 when some
differ, 2 when nothing could be replayed."""
    parser.epilog = """\
examples:
  gateway replay capture.ndjson --target http://127.0.0.1:8001 --token @token.txt
  gateway replay browser.har --target https://staging.example.com --ignore json:/items/*/updated_at --diff
  gateway replay capture.ndjson --target http://127.0.0.1:8001 --rate 50 --concurrency 8 --json
"""
    parser.add_argument("file", type=file_argument, metavar="FILE", help="a capture, or a HAR")
    parser.add_argument(
        "--target", type=_target, metavar="URL", required=True, help="http://HOST:PORT or https://HOST"
    )
    parser.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="T",
        help="of whoever asks, or @FILE; TENANT=T for one tenant's requests; several times",
    )
    parser.add_argument(
        "--api-key", action="append", default=[], metavar="K", help="the same, for requests with an API key"
    )
    parser.add_argument(
        "--rate", type=_positive, metavar="R", default=0.0, help="requests a second (default: no limit)"
    )
    parser.add_argument(
        "--concurrency", type=_count, metavar="N", default=1, help="requests at once (default: 1)"
    )
    parser.add_argument(
        "--timeout", type=_positive, metavar="S", default=30.0, help="seconds for each (default: 30)"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="RULE",
        help="status, body, header:NAME or json:/path/*; several times",
    )
    parser.add_argument(
        "--compare-all", action="store_true", help="compare also what usually differs, such as Date"
    )
    parser.add_argument("--unsafe", action="store_true", help="also POST, PUT, PATCH and DELETE")
    parser.add_argument("--diff", action="store_true", help="tell of every request whose answer differs")
    parser.add_argument(
        "--ca", type=file_argument, metavar="FILE", help="authorities of the target's certificate"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    from kernel.capture.compare import DEFAULTS, Rules  # noqa: PLC0415
    from kernel.capture.reading import Unreadable, entries  # noqa: PLC0415
    from kernel.capture.replay import Unreachable  # noqa: PLC0415
    from kernel.capture.resend import Resender  # noqa: PLC0415

    try:
        rules = Rules((*(() if args.compare_all else DEFAULTS), *args.ignore))
        resender = Resender(_credentials(args), unsafe=args.unsafe)
        details: list[Result] = []
        report = asyncio.run(_replayed(args, entries(args.file), resender, rules, details))
    except (Unreadable, Unreachable, ValueError, OSError) as error:
        sys.stderr.write(f"gateway: {_told(error, args.target)}\n")
        return 2
    if args.json:
        sys.stdout.write(
            orjson.dumps(_document(args, report, details), option=orjson.OPT_INDENT_2).decode() + "\n"
        )
    else:
        sys.stdout.write("\n".join(_text(args, report, details)) + "\n")
    if not report.sent:
        return 2
    return 1 if report.different or report.unanswered else 0


async def _replayed(
    args: argparse.Namespace, reads: Any, resender: Any, rules: Any, details: list[Result]
) -> Report:
    from kernel.capture.replay import replay  # noqa: PLC0415
    from kernel.capture.target import Target  # noqa: PLC0415

    def each(result: Result) -> None:
        if args.diff and len(details) < _MOST_DETAILS:
            details.append(result)

    async with Target(args.target, args.concurrency, args.timeout, _tls(args)) as target:
        return await replay(
            reads, resender, target, rules, concurrency=args.concurrency, rate=args.rate, each=each
        )


def _tls(args: argparse.Namespace) -> Any:
    if not args.target.startswith("https:"):
        return None
    from kernel.primitives.tls import client_context  # noqa: PLC0415

    return client_context(args.ca.read_bytes() if args.ca else b"")


def _told(error: Exception, target: str) -> str:
    from kernel.capture.replay import Unreachable  # noqa: PLC0415

    return f"{target} cannot be reached: {error}" if isinstance(error, Unreachable) else str(error)


def _credentials(args: argparse.Namespace) -> Credentials:
    """Raises ValueError, OSError."""
    from kernel.capture.resend import KEY, TOKEN  # noqa: PLC0415

    found: dict[tuple[str, str], tuple[bytes, bytes]] = {}
    kinds = ((args.token, TOKEN, b"authorization", b"Bearer "), (args.api_key, KEY, b"x-api-key", b""))
    for given, kind, name, scheme in kinds:
        for each in given:
            named = _FOR_TENANT.fullmatch(each)
            tenant, secret = (named[1], named[2]) if named else ("", each)
            if secret.startswith("@"):
                with Path(secret[1:]).open(errors="replace") as file:
                    secret = file.read(_MAX_SECRET_FILE).strip()
            if not _WORD.fullmatch(secret):
                raise ValueError(f"what is given with --{kind} is none: one word of ASCII is")
            if (tenant, kind) in found:
                raise ValueError(f"--{kind} is given twice for {tenant or 'tenants that are not named'}")
            found[tenant, kind] = (name, scheme + secret.encode())
    return found


def _target(text: str) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not http://HOST:PORT or https://HOST")
    return f"{parts.scheme}://{parts.netloc}"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and up to 1000000")
    return value


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 1000")
    return value


def _document(args: argparse.Namespace, report: Report, details: list[Result]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": str(args.file),
        "target": args.target,
        "sent": report.sent,
        "same": report.same,
        "different": report.different,
        "unanswered": report.unanswered,
        "bodies_unknown": report.bodies_unknown,
        "shortened": report.shortened,
        "left_out": dict(report.left_out),
        "seconds": round(report.seconds, 3),
        "places": [
            {
                **place._asdict(),
                "requests": at.requests,
                "was": at.difference.was,
                "now": at.difference.now,
                "first": at.first.place,
                "request_id": at.first.entry.request_id,
            }
            for place, at in report.places.items()
        ],
        "more_places": report.more_places,
    }
    if args.diff:
        found["requests"] = [
            {
                "place": result.read.place,
                "request_id": result.read.entry.request_id,
                "method": result.read.entry.request.method,
                "path": _shown_path(result),
                "differences": [difference._asdict() for difference in result.differences],
            }
            for result in details
        ]
    return found


def _text(args: argparse.Namespace, report: Report, details: list[Result]) -> list[str]:
    style = Style(sys.stdout)
    columns = room(sys.stdout) or _EVERYWHERE
    total = report.sent + sum(report.left_out.values())
    lines = []
    for result in details:
        lines.append(_cut(f"{result.read.entry.request.method} {_shown_path(result)}", columns))
        lines.append(
            style("2", _cut(f"  {result.read.place}  {printable(result.read.entry.request_id)}", columns))
        )
        lines += [_cut(f"  {_difference(*difference)}", columns) for difference in result.differences]
        lines.append("")
    if report.places:
        lines.append(f"Different in {plural(len(report.places), 'place')}:")
        for place, at in report.places.items():
            lines += _place(place, at, style, columns)
        if report.more_places:
            lines.append(f"  and in more, which are not listed ({plural(report.more_places, 'time')})")
        lines.append("")
    verdict = f"{report.same} the same, {report.different} different"
    if report.unanswered:
        verdict += f", {report.unanswered} without an answer"
    bad = report.different or report.unanswered or not report.sent
    lines.append(
        f"{report.sent} of {plural(total, 'request')} sent in {report.seconds:.1f} s: {style('31' if bad else '32', verdict)}"
    )
    if report.bodies_unknown:
        lines.append(
            f"  {report.bodies_unknown} of the same by status and headers alone: no body was captured"
        )
    if report.shortened:
        lines.append(f"  {report.shortened} sent without a secret that the query had")
    for reason, count in report.left_out.most_common():
        lines.append(f"  {count} left out: {reason}")
    return lines


def _place(place: Place, at: Found, style: Style, columns: int) -> list[str]:
    where = f"{place.kind} {place.where}".strip()
    first = f"{plural(at.requests, 'request')}, the first is {at.first.place}"
    return [
        "  " + style("1", _cut(printable(f"{place.method} {place.path}"), columns - 2)),
        _cut(f"    {_difference(where, '', at.difference.was, at.difference.now)}", columns),
        style("2", _cut(f"    {first}", columns)),
    ]


def _difference(kind: str, where: str, was: str, now: str) -> str:
    return printable(f"{f'{kind} {where}'.strip()}: {was} -> {now}")


def _shown_path(result: Result) -> str:
    return printable(urlsplit(result.read.entry.request.url).path)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 3]}..."
