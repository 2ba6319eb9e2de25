"""`gateway capture`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from kernel.cli.output import Style, file_argument, plural, printable, table


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Tell what is in a capture: how many requests to which routes, and how they were answered. With --har, make one HAR 1.2
document of it and its rotated files, for a browser's tools or any program that reads HAR."""
    parser.epilog = """\
examples:
  gateway capture capture.ndjson
  gateway capture capture.ndjson --har capture.har      # open it in the Network tab of a browser
"""
    parser.add_argument("file", type=file_argument, metavar="FILE", help="what CAPTURE_FILE names")
    parser.add_argument("--har", metavar="OUT", help="write a HAR there; -: to standard output")


def run(args: argparse.Namespace) -> int:
    from kernel.capture.reading import Unreadable  # noqa: PLC0415

    try:
        return _har(args.file, args.har) if args.har else _summary(args.file)
    except (Unreadable, OSError) as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 2


def _har(path: Path, out: str) -> int:
    from kernel.capture.reading import write_har  # noqa: PLC0415

    if out == "-":
        write_har(path, sys.stdout.buffer)
        return 0
    # Whole or not at all, and like the capture for its owner only.
    target = Path(out)
    fd, unready = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            count = write_har(path, file)
        os.replace(unready, target)
    except BaseException:
        os.unlink(unready)
        raise
    sys.stderr.write(f"gateway: {plural(count, 'request')} in {target}\n")
    return 0


def _summary(path: Path) -> int:
    from kernel.capture.reading import entries  # noqa: PLC0415

    counted: Counter[tuple[str, str, str]] = Counter()
    for _, entry in entries(path):
        status = str(entry.response.status or "-")
        counted[printable(entry.request.method), printable(entry.route or "-"), status] += 1
    style = Style(sys.stdout)
    rows = [
        (str(count), *key) for key, count in sorted(counted.items(), key=lambda item: (item[0][1], item[0]))
    ]
    if rows:
        lines = table([("requests", "method", "route", "status"), *rows], ("1", "", "", ""), style)
        sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.write(f"{plural(counted.total(), 'request')}\n")
    return 0
