"""Proxy: hands a request that every policy admitted to its service."""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.exchange.exchange import Exchange, Handler
from kernel.routing.catalog import RouteRow
from kernel.stages.effects import attached
from kernel.state import State
from kernel.traffic.forwarding import forwarded
from kernel.traffic.idempotency import heeding_keys
from kernel.upstream.balance import Upstream
from kernel.upstream.callback_lane import CallbackLane
from kernel.upstream.forward import Spare, forward
from kernel.upstream.request_headers import header_lines, host_line


def make(state: State, row: RouteRow) -> Handler:
    """The handler of a proxied row."""
    assert row.service is not None
    service = row.service
    proxy = _to(state, row, state.upstreams[row.asked], service)
    mirroring = state.mirrorings.get(row.asked)
    if mirroring is not None:
        proxy = mirroring.behind(proxy, row)
    split = state.splits.get(row.asked)
    if split is not None:
        proxy = split.beside(proxy, _to(state, row, split.upstream, split.upstream.name, split.fall_back))
    handler: Handler = proxy if row.effect is None else attached(state, row.effect, proxy)
    if row.graphql:
        # PERF: 6 MiB that no other gateway needs.
        from kernel.graphql.passing import judged  # noqa: PLC0415

        handler = judged(state, row, handler)
    handler = heeding_keys(state.ledger, row, forwarded(row, handler), state.settings.body_timeout_seconds)
    return state.versions.counted(row, handler)


def _to(state: State, row: RouteRow, upstream: Upstream, service: str, spare: Spare | None = None) -> Handler:
    """What hands requests to `upstream`, or to the `spare` one; `service` is what the log calls it."""
    issues_tokens = row.service == "auth"
    tracer = state.tracer
    timeout = row.timeout or state.settings.request_timeout_seconds

    stand_in = upstream.stand_in
    launch = CallbackLane(upstream, timeout, spare).launch

    def proxy(x: Exchange) -> Awaitable[None] | None:
        # PERF: a plain function that returns the forwarder's coroutine, not a second coroutine around it.
        x.service = service
        lines = header_lines(x, tracer, refresh_token=issues_tokens)
        if stand_in:
            lines = host_line(x, stand_in) + lines
        if x.lane is not None and launch(x, lines):
            return None
        return forward(x, upstream, lines, timeout, None, spare)

    return proxy
