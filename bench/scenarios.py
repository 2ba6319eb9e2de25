"""The scenarios beyond the main table: a list, and the loop that runs them. One that fails says why; the run goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.families import live, memory, traffic
from bench.families.base import Case, Context, Result

CASES: tuple[Case, ...] = (
    Case("connections", "the small GET over 1, 32, 256 and 5,000 connections", traffic.connections),
    Case("post", "POST of 10 KiB, 64 connections", traffic.post),
    Case("large", "answers of 1 MiB, 64 connections", traffic.large),
    Case("close", "keep-alive off: a connection for every request, 64 at a time", traffic.closing),
    Case("cold", "cold tokens: every request brings a token never seen before", traffic.cold),
    Case("users", "10,000 users in turn, 64 connections", traffic.users),
    Case("bodies", "a body of 1 GiB, up and down", memory.bodies),
    Case("footprint", "start, memory at rest, memory of an idle connection", memory.footprint),
    Case("streams", "alerts to 1,000 and 5,000 SSE streams", live.streams),
    Case("sockets", "WebSockets: round trips over 32, a flood over one", live.sockets),
    Case("workers", "one worker and two, 128 connections", traffic.workers),
)


def chosen(names: str | None, *, default: Sequence[Case]) -> tuple[Case, ...]:
    """The cases named in `names` (with commas; `all`, `none`), or `default`; raises ValueError for unknown ones."""
    if names is None:
        return tuple(default)
    if names in {"all", "none"}:
        return CASES if names == "all" else ()
    wanted = names.split(",")
    if unknown := sorted(set(wanted) - {case.name for case in CASES}):
        known = ", ".join(case.name for case in CASES)
        raise ValueError(f"unknown scenarios: {', '.join(unknown)} (known: {known}, all, none)")
    return tuple(case for case in CASES if case.name in wanted)


def run(cases: Sequence[Case], context: Context) -> list[Result]:
    """Run them one after the other; whatever goes wrong in one is its result."""
    results = []
    for case in cases:
        began = time.monotonic()
        try:
            result = Result(case, case.measure(context), seconds=time.monotonic() - began)
        except Exception as error:  # a scenario's failure is a result, never the end of the run
            result = Result(
                case, None, f"{type(error).__name__}: {error}"[:500], seconds=time.monotonic() - began
            )
            context.say(f"scenario {case.name} FAILED: {result.failure}")
        results.append(result)
    return results
