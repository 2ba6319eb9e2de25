"""The command `gateway`. One module a command: `add(parser)` declares its arguments, `run(args)` returns the exit code.

What a command needs is imported when it runs: `--help` answers in a blink.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from typing import NamedTuple

from kernel import __version__
from kernel.cli.output import Formatter
from kernel.config.values import sound
from kernel.server.terminal import complete_streams, renew_streams

_EPILOG = """\
configuration:
  From environment variables, then from the file .env in the current directory, then defaults. GATEWAY_CONFIG names an
  optional gateway.toml with more services, routes and limits. `gateway check --reference` lists every variable.

examples:
  gateway demo                              try the whole product on this machine
  ENVIRONMENT=prod gateway check --probe    before a deployment
  gateway run                               serve
"""


class Command(NamedTuple):
    """`module` has the command; `help` is its line in the overview."""

    module: str
    help: str


COMMANDS = {
    "run": Command("kernel.cli.run", "serve until SIGINT or SIGTERM"),
    "demo": Command("kernel.cli.demo", "store, stub platform and gateway on this machine"),
    "check": Command("kernel.cli.check", "validate the configuration, all errors at once"),
    "routes": Command("kernel.cli.routes", "print the route table"),
    "explain": Command("kernel.cli.explain", "tell what happens to a request, stage by stage"),
    "token": Command("kernel.cli.token", "make a token, or tell whether one would be accepted"),
    "graphql": Command(
        "kernel.cli.graphql", "print the GraphQL schema that is made of the services' documents"
    ),
    "health": Command("kernel.cli.health", "ask the gateway that runs here whether it is alive"),
    "capture": Command("kernel.cli.capture", "tell what is in a capture, or make a HAR of it"),
    "replay": Command("kernel.cli.replay", "send the requests of a capture again, and compare the answers"),
    "completion": Command("kernel.cli.completion", "print what completes commands and options in a shell"),
    "lock": Command("kernel.cli.lock", "refuse writes in a tenant, or everywhere"),
    "unlock": Command("kernel.cli.unlock", "allow writes again"),
    "locks": Command("kernel.cli.locks", "list what is read-only, and why"),
    "revoke": Command("kernel.cli.revoke", "refuse a token from now on"),
    "limits": Command("kernel.cli.limits", "show what clients have left of their limits, or reset them"),
    "keys": Command("kernel.cli.keys", "API keys of tenants: make, list, rotate, revoke"),
    "audit": Command("kernel.cli.audit", "export or erase a user of the audit log, verify it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (without the program's name) says. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    complete_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without an "ñ" is no reason to fail
    if arguments[:1] == ["demo"]:
        # It has arguments and a help of its own.
        from kernel.cli.demo import demo  # noqa: PLC0415

        return demo(arguments[1:])
    commands = parser(arguments[0] if arguments else "")
    for place, argument in enumerate(arguments, 1):
        try:
            sound(argument)
        except ValueError as error:
            commands.error(f"argument {place} {error}")
    args = commands.parse_args(arguments)
    if args.command is None:
        commands.print_help()
        return 2
    try:
        code: int = importlib.import_module(COMMANDS[args.command].module).run(args)
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    finally:
        renew_streams()  # `gateway routes | head`: nobody reads any more, and the flush at exit would complain


def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The command's parser, with the arguments of the command `wanted`; None: of all of them."""
    commands = argparse.ArgumentParser(
        prog="gateway",
        description="The API gateway of the bakery platform.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    commands.add_argument("--version", action="version", version=f"bakery-gateway {__version__}")
    listed = commands.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        sub = listed.add_parser(name, help=command.help, formatter_class=Formatter)
        if wanted in (name, None) and name != "demo":
            importlib.import_module(command.module).add(sub)
    return commands
