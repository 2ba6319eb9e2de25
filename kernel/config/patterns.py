"""Patterns of gateway.toml's routes: which no request can match, and which take a path from one that demands more of it."""

from __future__ import annotations

import re
from collections.abc import Collection

from kernel.config.rewrite import Table
from kernel.http.paths import flaw
from kernel.routing.trie import RouteConflictError, Trie

VARIABLE = re.compile(r"\{[^{}/]*\}|(?<=/)\*\*\Z")
_MISPLACED = re.compile(r"[\[\]^{|}]")
# Of a row; what it does beside, which nobody can say there is none of, is told with these alone.
_DEMANDS = ("service_only", "min_tier", "ip_allow", "ip_deny", "critical")
_TOLD = (*_DEMANDS, "effect")


def pattern_flaw(pattern: str) -> str:
    """Why no request can match `pattern`, or what is malformed in it; or an empty string."""
    try:
        Trie[None]().add(frozenset(), pattern, None)
    except RouteConflictError as error:
        return str(error).removeprefix(f"{pattern}: ")
    literal = VARIABLE.sub("x", pattern)
    if _MISPLACED.search(literal):
        return (
            "no request can match it: braces stand around a whole segment, and []^| are no part of a pattern"
        )
    wrong = flaw(literal.encode())[0]
    return f"no request can match it: {wrong}" if wrong else ""


def overtaken(rows: Table, pattern: str, said: Collection[str]) -> str:
    """What a wider pattern demands, and `pattern`, which is chosen before it, does not, nor has it `said` so; or an empty
    string."""
    segments = pattern.removesuffix("/**").split("/")
    while len(segments) > 2:
        segments.pop()
        wider = "/".join([*segments, "**"])
        if rows.at(wider):
            break
    else:
        return ""
    missed = {
        demand
        for general in rows.at(wider)
        for row in rows.at(pattern)
        if not row.public and row.answered & general.answered
        for demand in _TOLD
        if getattr(general, demand) and not getattr(row, demand) and demand not in said
    }
    if missed.isdisjoint(_DEMANDS):
        return ""
    names = ", ".join(demand for demand in _TOLD if demand in missed)
    return f"is chosen before {wider}, of which it has not: {names}. Say it here too, or that there is none"
