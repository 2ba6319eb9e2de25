"""Gateway: the ASGI callable. A request's way is the body of `enter`, and of `go_on` once it has to wait, top to bottom.

Whatever a stage or handler raises ends in `go_on`: it becomes a problem with CORS headers and a request id or, when the head
is already out, a visibly broken response.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter

from kernel.exchange.asgi import Receive, Scope, Send, Watcher
from kernel.exchange.cors import Cors
from kernel.exchange.exchange import CLIENT, Exchange, Handler, Lane, Route, Stage
from kernel.exchange.inner import INNER, inner_exchange
from kernel.exchange.linger import Lingering
from kernel.exchange.phase import DONE, ROUTER, Phase
from kernel.exchange.websocket import WebSocketExchange
from kernel.http.headers import HTTP_1_0
from kernel.http.problems import (
    CLIENT_GONE,
    DRAINING,
    INTERNAL,
    OVERLOADED,
    ROUTE_UNKNOWN,
    GatewayError,
    Problem,
)
from kernel.routing.catalog import RouteRow
from kernel.routing.router import UNMATCHED, Router
from kernel.stages import ALWAYS, compile_stages
from kernel.state import State
from kernel.store.wait_budget import WaitBudget
from kernel.telemetry.audit import ADMIN, AUTH_FAILURE, DENIED, SERVICE_TOKEN
from kernel.upstream.callback_lane import raised

# Whether mypyc has made a library of this and of all that a request passes through (see setup.py).
COMPILED = not __file__.endswith(".py")
_RETRY_SOON = ((b"retry-after", b"1"),)
_LEAVE = (*_RETRY_SOON, (b"connection", b"close"))
Outcome = Problem | Awaitable[Problem | None] | None
_REFUSED = frozenset({401, 402, 403})
# What is made of scopes that are no plain request's.
_OTHERS: dict[str, Callable[..., Exchange]] = {"websocket": WebSocketExchange, INNER: inner_exchange}


class Truncated(Exception):
    """Leaves the application when a response cannot be ended cleanly, so that the server breaks the connection."""


class Gateway:
    """One a worker. `handlers` maps a row's handler name to its factory's product for that row."""

    def __init__(self, state: State, handler_for: Callable[[RouteRow], Handler]) -> None:
        self._state = state
        state.enter = self.enter
        self._handler_for = handler_for
        self._lingering = Lingering(state.streams)
        self._max_in_flight = state.settings.max_requests_in_flight
        self.router: Router[Route] = Router(state.settings.routes, self._compile, self._refusing)
        self._preflight = self._special("preflight", _preflight_handler(state.cors))
        self._no_socket = self._special(UNMATCHED, _refusal(ROUTE_UNKNOWN("No WebSocket is served here.")))
        self._overloaded = self._special("shed", _refusal(OVERLOADED("", _RETRY_SOON)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = self.enter(scope, receive, send)
        if rest is not None:
            await rest

    def enter(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        lane: Lane | None = None,
        watcher: Watcher | None = None,
    ) -> Awaitable[None] | None:
        """Take a request as far as it goes without waiting; what is left is to be awaited.

        None: its `lane` will be told when all is over, or what is left then.
        """
        state = self._state
        metrics = state.metrics
        make = Exchange if scope["type"] == "http" else _OTHERS[scope["type"]]
        x = make(scope, receive, send, state.header_kinds, state.request_ids.new(), state.baseline)
        if x.method == "OPTIONS" and _is_preflight(x):
            route = self._preflight
        else:
            route, x.params = self.router.match(x.method, x.raw_path)
            if make is WebSocketExchange and not route.row.websocket:
                route = self._no_socket
        if not route.exempt:
            metrics.in_flight += 1
            if metrics.in_flight > self._max_in_flight:
                metrics.shed += 1
                route = self._overloaded
        x.route = route
        x.lane = lane
        x.watcher = watcher
        if state.access_log.debug:
            client = scope["client"][0]
            state.access_log.pre_request(x.request_id, x.method, x.raw_path, client, scope["headers"])
        stages = iter(route.stages)
        stage: Stage | None = None
        outcome: Outcome
        try:
            for stage in stages:
                outcome = stage(x)
                if outcome is not None:
                    break
            else:
                stage = None
                outcome = route.handler(x)
                if outcome is None:
                    return None
        except Exception as error:
            outcome = raised(error)
        return self.go_on(x, stages, stage, outcome)

    async def go_on(
        self, x: Exchange, stages: Iterator[Stage], stage: Stage | None, outcome: Outcome
    ) -> None:
        """What is left of an exchange: from the `outcome` of `stage` on, or of its handler (None), to the end."""
        broken = ""
        x.lane = None  # what waits has no use for it
        budget = WaitBudget() if stage is not None else None  # with the store, for all stages together
        try:
            while stage is not None:
                if outcome is not None and not isinstance(outcome, Problem):
                    outcome = await outcome
                if outcome is not None:
                    x.phase = _phase(stage, x.route)
                    await x.refuse(outcome)
                    break
                stage = next(stages, None)
                if stage is None and budget is not None:
                    budget.end()
                outcome = stage(x) if stage is not None else x.route.handler(x)
            else:
                assert outcome is not None
                assert not isinstance(outcome, Problem)
                await outcome
        except GatewayError as error:
            broken = await self._fail(x, error.problem, stage)
        except CancelledError:
            # The grace of a drain is over.
            broken = await self._fail(x, DRAINING("", _LEAVE), stage)
        except Exception:
            self._state.log.exception("unhandled error", request_id=x.request_id, route=x.route.template)
            broken = await self._fail(x, INTERNAL(), stage)
        finally:
            if x.deposits:
                for key in x.deposits:
                    self._state.limiter.settle(key, back=False)
            self.finish(x)
        if x.held is not None:
            await self._lingering.wait(x)
        if broken:
            if x.scope.get("http_version") in HTTP_1_0:
                # It knows no chunks: its response ends with the connection, and a close would be as good as any.
                await self._state.client_sockets.reset(*x.scope["client"])
            # The access log says what happened; the server only has to break the connection.
            raise Truncated(broken) from None

    def clients(self) -> Iterator[str]:
        """The ports of clients whose request is under way without a task."""
        for upstream in self._state.upstreams.values():
            for x in upstream.exchanges():
                client = x.scope.get("client")
                if client is not None:
                    yield client[1]

    def cut_short(self) -> None:
        """The grace of a drain is over: end what no task waits for. Tasks are cancelled by who made them."""
        for upstream in self._state.upstreams.values():
            upstream.give_up(DRAINING("", _LEAVE))

    async def _fail(self, x: Exchange, problem: Problem, stage: Stage | None) -> str:
        """Answer with `problem`, which came from `stage` or the handler.

        Returns its code when the head is already out and the response must be broken off instead.
        """
        if x.phase == DONE:
            x.phase = _phase(stage, x.route)
        if not x.response_started:
            await x.refuse(problem)
            return ""
        x.problem_code = problem.kind.code
        if problem.kind is CLIENT_GONE:
            x.ended_by = CLIENT
            return ""
        return x.problem_code

    def finish(self, x: Exchange) -> None:
        """Metrics and the access log: a few increments and one append, nothing formatted."""
        ended = perf_counter()
        seconds = ended - x.started
        route = x.route
        route.meter.observe(x.method, x.status, seconds, x.received, x.sent)
        state = self._state
        if not route.exempt:
            state.metrics.in_flight -= 1
        identity = x.identity
        if x.problem_code:
            state.metrics.problems[x.problem_code] += 1
            if x.status in _REFUSED:
                state.audit.exchange(AUTH_FAILURE if x.status == 401 else DENIED, x, x.status, x.problem_code)
        elif identity is not None and identity.kind == "service":
            state.audit.exchange(SERVICE_TOKEN, x, x.status)
        elif route.admin:
            state.audit.exchange(ADMIN, x, x.status)
        if identity is None:
            user = caller = None
        else:
            user = identity.user_id
            caller = identity.service
        state.access_log.append(
            (
                ended,
                x.method,
                route.template,
                x.raw_path,
                x.status,
                seconds,
                x.upstream_seconds,
                x.request_id,
                x.trace,
                x.service,
                x.ended_by,
                x.phase,
                user,
                x.tenant,
                caller,
                x.client_ip,
                x.received,
                x.sent,
                x.captured.get(b"user-agent"),
                x.problem_code,
            )
        )

    def _compile(self, row: RouteRow) -> Route:
        return self._route(row, row.pattern, self._handler_for(row))

    def _refusing(self, template: str, problem: Problem, admin: bool) -> Route:
        """A route that answers with `problem` whoever passes its stages, those of `admin` routes if it is for them alone."""

        other = self._state.versions.unknown if problem.kind is ROUTE_UNKNOWN else None

        async def refuse(x: Exchange) -> None:
            raise GatewayError((other(x.raw_path) if other is not None else None) or problem)

        row = RouteRow(pattern=template, public=True, always_writable=True, admin=admin)
        return self._route(row, template, refuse)

    def _route(self, row: RouteRow, template: str, handler: Handler) -> Route:
        stages = compile_stages(self._state, row)
        meter = self._state.metrics.route(template)
        profile = self._state.profile
        if profile is not None:
            stages = tuple((name, profile.timed(name, stage)) for name, stage in stages)
            handler = profile.timed_handler(f"handler {row.handler}", handler)
        return Route(row, template, stages, handler, meter)

    def _special(self, template: str, handler: Handler) -> Route:
        """A route outside the table: only the stages that every answer needs."""
        row = RouteRow(pattern=template, public=True, always_writable=True)
        stages = compile_stages(self._state, row, ALWAYS)
        return Route(row, template, stages, handler, self._state.metrics.route(template))


class CapturingGateway(Gateway):
    """That of a worker with CAPTURE_FILE: what is captured is over when an exchange is. Others pay nothing for it."""

    def finish(self, x: Exchange) -> None:
        super().finish(x)
        assert self._state.capture is not None
        self._state.capture.recorder.finished(x)


def make_gateway(state: State, handler_for: Callable[[RouteRow], Handler]) -> Gateway:
    """The gateway of a worker that holds `state`."""
    return (Gateway if state.capture is None else CapturingGateway)(state, handler_for)


def _is_preflight(x: Exchange) -> bool:
    return b"origin" in x.captured and b"access-control-request-method" in x.captured


def _phase(stage: Stage | None, route: Route) -> Phase:
    """Where a request ended that did not come to a service."""
    if stage is not None:
        return route.name_of(stage)
    row = route.row
    return Phase(row.handler) if row.handler != "proxy" or row.service else ROUTER


def _preflight_handler(cors: Cors) -> Handler:
    varied = (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers")

    async def preflight(x: Exchange) -> None:
        await x.respond(204, [varied, *cors.preflight(x)], b"")

    return preflight


def _refusal(problem: Problem) -> Handler:
    async def refuse(x: Exchange) -> None:
        await x.refuse(problem)

    return refuse
