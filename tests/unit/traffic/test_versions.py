"""Who is counted as a caller of a version that ends, and what is told of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernel.exchange.exchange import Handler
from kernel.routing.catalog import Lifecycle, RouteRow
from kernel.traffic.versions import Versions, announcement

ENDS = Lifecycle(deprecated=1780272000, successor="v2", deprecation_page="/why", sunset_page="https://x/when")


def row(life: Lifecycle | None, pattern: str = "/api/v1/pos/**") -> RouteRow:
    return RouteRow(pattern=pattern, service="pos", version="v1", life=life)


def handled(x: object) -> None:
    return None


HANDLER = cast("Handler", handled)


@pytest.mark.parametrize(
    ("kind", "tier", "counted"),
    [
        ("access", "starter", ("user", "starter")),
        ("service", None, ("service", "")),
        (None, None, ("anonymous", "")),
        # Whatever claims say, there are not more series than tiers.
        ("access", "platinum-7f3a", ("user", "")),
    ],
)
def test_callers_are_counted_by_bounded_labels(
    kind: str | None, tier: str | None, counted: tuple[str, str]
) -> None:
    versions = Versions((), ())
    handler = versions.counted(row(ENDS), HANDLER)
    caller: Any = SimpleNamespace(
        identity=SimpleNamespace(kind=kind) if kind else None,
        grant=SimpleNamespace(tier=tier) if tier else None,
    )
    for _ in range(2):
        handler(caller)
    assert versions.families() == {"gateway_deprecated_requests_total": {("pos", "v1", *counted): 2}}


@pytest.mark.parametrize("life", [None, Lifecycle(successor="v2")])
def test_who_calls_what_does_not_end_is_not_counted(life: Lifecycle | None) -> None:
    versions = Versions((), ())
    assert versions.counted(row(life), HANDLER) is HANDLER
    assert versions.families() == {}


def test_what_is_told_and_where_there_is_nothing_to_tell() -> None:
    assert announcement(row(None)) is None
    announce = announcement(row(ENDS))
    assert announce is not None
    link = (
        b'</api/v2/pos/7>; rel="successor-version", </why>; rel="deprecation", <https://x/when>; rel="sunset"'
    )
    assert announce(b"/api/v1/pos/7") == [(b"deprecation", b"@1780272000"), (b"link", link)]
    # Each answer's own, not one list that grows.
    assert announce(b"/api/v1/pos/7") == [(b"deprecation", b"@1780272000"), (b"link", link)]


@pytest.mark.parametrize(
    ("life", "headers"),
    [
        (Lifecycle(sunset=0), [(b"sunset", b"Thu, 01 Jan 1970 00:00:00 GMT")]),
        (Lifecycle(deprecated=-1), [(b"deprecation", b"@-1")]),
        (Lifecycle(successor="https://x/new"), [(b"link", b'<https://x/new>; rel="successor-version"')]),
    ],
)
def test_each_alone(life: Lifecycle, headers: list[tuple[bytes, bytes]]) -> None:
    announce = announcement(row(life))
    assert announce is not None
    assert announce(b"/api/v1/pos") == headers
