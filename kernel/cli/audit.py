"""`gateway audit`."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from pathlib import Path

import orjson

from kernel.cli.output import Formatter, Style, file_argument, plural


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
What the audit log holds about a user: hand it out (GDPR article 15), or erase who it was (article 17); and whether the log is
as it was written. The file is that of AUDIT_LOG_FILE with all its rotated ones; running workers are first asked to write what
they still hold, which takes up to two seconds, and may go on writing. The access log is the log system's."""
    parser.epilog = """\
examples:
  gateway audit export --user 81a4f2d3 > events.jsonl
  gateway audit erase --user 81a4f2d3 --yes
  gateway audit verify --head "$(cat noted-last-week)"
"""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    export = actions.add_parser(
        "export", help="print every event about a user as JSON lines", formatter_class=Formatter
    )
    erase = actions.add_parser(
        "erase", help="replace a user by a pseudonym in every event", formatter_class=Formatter
    )
    erase.description = """\
Replace the user's id by a random pseudonym and remove address, browser and e-mail from every event about them. Time, route,
tenant and outcome stay: they are the security record. This cannot be undone."""
    for action in (export, erase):
        action.add_argument("--user", required=True, metavar="ID", help="the user's id, as tokens have it")
    verify = actions.add_parser(
        "verify", help="tell whether the log is as it was written", formatter_class=Formatter
    )
    verify.description = """\
Follow the chain of hashes through all files: a line that was changed, moved, put in or taken out shows, and an erased person
does not count. Whoever may write the files could make all of them anew, or cut the end off: note the head that is printed
where they cannot write, and look for it with --head. Exit code 0: it holds; 1: it does not."""
    verify.add_argument("--head", type=_head, metavar="HASH", help="a head noted before: it must be there")
    for action in (export, erase, verify):
        action.add_argument("--file", type=file_argument, metavar="FILE", help="(default: AUDIT_LOG_FILE)")
    erase.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    from kernel.telemetry.auditfile import erase, export  # noqa: PLC0415

    path = args.file or _configured()
    if path is None:
        return 1
    # os.path takes what it may not look at as absent; pathlib raises.
    if not os.path.exists(path) and not any(path.parent.glob(f"{glob.escape(path.name)}.[0-9]*")):
        sys.stderr.write(f"gateway: there is no audit log {path}\n")
        return 1
    try:
        if args.action == "verify":
            return _verified(path, args.head or "")
        if args.action == "erase" and not args.yes and not _agreed(args.user):
            sys.stderr.write("gateway: nothing was changed\n")
            return 1
        missed = _flushed(path)
        if args.action == "export":
            count = 0
            for event in export(path, args.user):
                sys.stdout.write(orjson.dumps(event).decode() + "\n")
                count += 1
            sys.stderr.write(f"gateway: {plural(count, 'event')}\n")
            return missed
        sys.stderr.write(f"gateway: {plural(erase(path, args.user), 'event')} changed\n")
    except OSError as error:
        sys.stderr.write(f"gateway: the audit log cannot be used: {error}\n")
        return 1
    return missed


def _verified(path: Path, head: str) -> int:
    from kernel.telemetry.auditfile import verify  # noqa: PLC0415

    verdict = verify(path, head)
    style = Style(sys.stdout)
    for problem in verdict.problems:
        sys.stdout.write(f"  {style('31', style.bad)} {problem}\n")
    if verdict.broken > len(verdict.problems):
        sys.stdout.write(f"  and {verdict.broken - len(verdict.problems)} more\n")
    missed = bool(head) and not verdict.wanted
    if missed:
        sys.stdout.write(f"  {style('31', style.bad)} the head that was noted is not in it: {head}\n")
    if verdict.head is None or verdict.first is None:
        sys.stdout.write(f"There is no chain: {plural(verdict.unchained, 'line')} without one\n")
        return 1 if missed or verdict.broken else 0
    holds = not (verdict.broken or missed)
    asides = [
        f"{count} {what}"
        for count, what in (
            (verdict.erased, "with an erased person"),
            (verdict.torn, "cut short by a crash or a full disk"),
            (verdict.unchained, "from before the chain"),
        )
        if count
    ]
    sys.stdout.write(
        f"The chain {'holds' if holds else 'is broken'}: {plural(verdict.lines, 'line')}, "
        f"{verdict.first.seq} to {verdict.head.seq}{''.join(f'; {aside}' for aside in asides)}\n"
        f"head {verdict.head.link}\n"
    )
    return 0 if holds else 1


def _head(text: str) -> str:
    """The type of `--head`."""
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("is no head of a chain, 64 hexadecimal digits")
    return text


def _flushed(path: Path) -> int:
    """Have running workers write what they hold. 1 when some did not: what follows may miss events."""
    from kernel.telemetry.auditflush import flush  # noqa: PLC0415

    done = flush(path)
    if done.silent:
        sys.stderr.write(
            f"gateway: {plural(done.silent, 'running worker')} did not write what is still in memory: try again\n"
        )
        return 1
    if not done.written:
        sys.stderr.write(
            "gateway: no worker that runs here writes to this file; of one elsewhere, the last second may be missing\n"
        )
    return 0


def _configured() -> Path | None:
    from kernel.cli.settings import obtain  # noqa: PLC0415

    loaded = obtain()
    if loaded is None:
        return None
    if loaded.settings.audit_log_file is None:
        sys.stderr.write("gateway: AUDIT_LOG_FILE is not set; name the file with --file\n")
    return loaded.settings.audit_log_file


def _agreed(user: str) -> bool:
    if not sys.stdin.isatty():
        sys.stderr.write("gateway: --yes is needed where nobody can be asked\n")
        return False
    return input(f"Erase who {user!r} was, in all audit files, for good? [y/N] ").strip().lower() in {
        "y",
        "yes",
    }
