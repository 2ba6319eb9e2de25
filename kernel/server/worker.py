"""Worker: one process's life. Builds its `State`, then hands every request to the `Gateway`; drains on SIGTERM.

The drain takes SIGTERM over from granian. When the streams have been told and the sockets are closed, it passes it on as
SIGINT, which granian still owns: it stops accepting, waits for what is in flight and runs the lifespan's shutdown.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers import FACTORIES
from kernel.app import make_gateway
from kernel.build import build_state
from kernel.config import Settings
from kernel.exchange.asgi import Receive, Scope, Send
from kernel.exchange.exchange import Handler
from kernel.routing.catalog import RouteRow
from kernel.server.client_connections import ClientConnections
from kernel.server.cpu_policy import CpuPolicy
from kernel.server.granian import CHECKED, Hook, Put, version
from kernel.server.intake import Intake
from kernel.server.listening import hold_off, let_in
from kernel.server.signals import HAND_OVER, HURRY, SOON, hold, release_soon, tell_server
from kernel.server.worker_stderr import WorkerStderr
from kernel.state import State

_GC_THRESHOLD = 20_000
_PR_SET_PDEATHSIG = 1
_LEAVE = (b"connection", b"close")
_CLOSE_LINGER_SECONDS = 0.1
# Between the last who is let in and the end of accepting: a round trip of the network, and a turn of a busy loop.
_LET_IN_SECONDS = 0.05
# What is cut short at the end of the grace is answered and logged meanwhile; less than the parent's margin before it kills.
_CUT_SECONDS = 0.5
# Beyond the longest that anything on a connection may be silent.
_IDLE_MARGIN_SECONDS = 30.0


def serving_mark(run_dir: Path, pid: int | None) -> Path:
    """The empty file by which a worker tells its parent that it serves."""
    return run_dir / f"serving-{pid}"


@dataclass
class Loader:
    """Makes the application, when granian calls it in a worker's process, be that forked or started anew."""

    settings: Settings
    store_url: str
    run_dir: Path
    parent: int
    stderr: WorkerStderr | None = None

    def __call__(self) -> Worker:
        hold()
        if self.stderr is not None:
            self.stderr.adopt()
        return Worker(self.settings, self.store_url, self.run_dir, self.parent)


class Worker:
    """The ASGI application granian is given. Made before the loop runs; everything else is made in the lifespan."""

    def __init__(self, settings: Settings, store_url: str, run_dir: Path, parent: int) -> None:
        self._settings = settings
        self._store_url = store_url
        self._run_dir = run_dir
        self._parent = parent
        # The file descriptor it accepts connections from, where the parent has made it.
        self.listener: int | None = None
        self._intake: Intake | None = None
        self._state: State | None = None
        self._cpu_policy: CpuPolicy | None = None
        self._connections: ClientConnections | None = None
        self._stopping = False
        self._leaving: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._hook = Hook(self._put)
        if settings.graphql or any(row.graphql for row in settings.routes):
            # PERF: 100 ms that would stop the loop, and what waits for the store.
            import kernel.graphql.endpoint  # noqa: F401, PLC0415

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._intake is None:
            return self._lifespan(receive, send)
        self._hook.passed_by()
        return self._intake.serve(scope, receive, send)

    def _put(self, loop: asyncio.AbstractEventLoop) -> Put:
        """What granian hands its requests to, once the lifespan has started."""
        assert self._intake is not None
        return self._intake.put

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """The ASGI lifespan protocol. An error at start-up ends the worker, and the parent says so."""
        await receive()
        try:
            await self._start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise
        serving_mark(self._run_dir, os.getpid()).touch()
        await send({"type": "lifespan.startup.complete"})
        loop = asyncio.get_running_loop()
        release_soon(loop)
        loop.call_later(SOON, self._hook.check)
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        _die_with(self._parent)
        state = await build_state(self._settings, self._store_url, self._run_dir)
        self._state = state
        loop = asyncio.get_running_loop()
        self._connections = _client_connections(state)
        self._intake = Intake(loop, make_gateway(state, lambda row: _handler(state, row)), self._connections)
        self._hook.tell(
            lambda reason: state.log.warning(
                "granian does not take the callback lane: requests are slower, and served all the same",
                reason=reason,
                granian=version(),
                checked=f"from {CHECKED[0]}, below {CHECKED[1]}",
            )
        )
        _tell_certificate(state)
        loop.set_exception_handler(_unheard)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(HURRY, self._hurry)
        loop.add_signal_handler(HAND_OVER, self._hand_over)
        # PERF: what a worker builds at its start lives as long as the worker; no collection need walk it.
        gc.collect()
        gc.freeze()
        # PERF: a request makes some forty containers and no cycle; at the default of 700 the collector ran every 17 requests.
        gc.set_threshold(_GC_THRESHOLD, 20, 50)
        self._cpu_policy = CpuPolicy(loop)
        self._cpu_policy.start()
        self._connections.start(self._intake.in_flight)

    def _hand_over(self) -> None:
        """Another worker has taken over: whoever is still connected goes to it after the next response."""
        assert self._state is not None
        if _LEAVE in self._state.baseline:
            return
        self._state.baseline.append(_LEAVE)
        self._stop_accepting()

    def _stop_accepting(self) -> None:
        """Where this worker has a listening socket of its own: granian goes on with the connections it has.

        It stops accepting only when it stops, and then drops those just accepted, unheard. So it gets a socket that nobody
        knows in exchange; what it had belongs to the parent and, at a reload, to the new worker as well.
        """
        if self.listener is None:
            return
        with socket.socket(socket.AF_UNIX) as unknown:
            unknown.bind("")
            unknown.listen(0)
            unknown.setblocking(False)
            os.dup2(unknown.fileno(), self.listener, inheritable=False)

    def _drain(self) -> None:
        """SIGTERM: say that this worker is going, and accept until balancers have noticed. A second one ends the wait."""
        assert self._state is not None
        if self._state.draining:
            self._hurried.set()
            return
        self._state.draining = True
        if _LEAVE not in self._state.baseline:
            self._state.baseline.append(_LEAVE)
        self._leaving = asyncio.get_running_loop().create_task(self._leave(self._state))

    def _hurry(self) -> None:
        """End without that wait: somebody waits for the end, or another worker has taken over."""
        assert self._state is not None
        self._hurried.set()
        if not self._state.draining:
            self._drain()

    async def _leave(self, state: State) -> None:
        """1. Accept and answer as ever, but with `Connection: close`; readiness is false.
        2. Let nobody in any more, accept whoever has been, end the streams and the sockets.
        3. Have granian finish what is in flight, break it off when the grace is over, and end.
        """
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), state.settings.drain_seconds)
        if self.listener is not None and not self._hurried.is_set() and hold_off(self.listener):
            await asyncio.sleep(_LET_IN_SECONDS)
            let_in(self.listener)
        self._stop_accepting()
        grace = state.settings.shutdown_grace_seconds
        end = loop.time() + grace
        state.streams.drain()
        # granian waits for requests, not for what an upgrade made of a connection: told to stop, it would cut the sockets
        # before their close frames, which it sends by itself some time after the relay has ended.
        if await state.sockets.gone(grace / 2) or not self._hurried.is_set():
            await asyncio.sleep(_CLOSE_LINGER_SECONDS)
        tell_server()
        assert self._intake is not None
        assert self._connections is not None
        self._connections.hasten()
        # Requests that go on are answered, or broken off, and logged; a kill would do neither.
        loop.call_at(end, self._intake.cut_short)
        loop.call_at(end + _CUT_SECONDS, lambda: loop.create_task(self._end_anyway()))

    async def _end_anyway(self) -> None:
        """granian waits for a request whose head never ends, too, until it is killed: end before that, with all written."""
        if not self._stopping:
            await self._stop()
            os._exit(0)

    async def _stop(self) -> None:
        self._stopping = True
        assert self._state is not None
        assert self._cpu_policy is not None
        assert self._connections is not None
        self._cpu_policy.stop()
        self._connections.stop()
        if self._state.profile is not None:
            self._state.profile.stop()
        await self._state.close()


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for goes to the log; but a host name that turns out to be unknown after its connection was given up
    is no news."""
    if not isinstance(context.get("exception"), socket.gaierror):
        loop.default_exception_handler(context)


def _die_with(parent: int) -> None:
    """Drain when the parent dies, however it does: an orphaned worker would hold the port without anybody to stop it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def _handler(state: State, row: RouteRow) -> Handler:
    return FACTORIES["websocket" if row.websocket else row.handler](state, row)


def _tell_certificate(state: State) -> None:
    """Until when it holds, in the metrics."""
    path = state.settings.tls_cert_file
    if path is None:
        return
    from kernel.identity.certificates import validity  # noqa: PLC0415  # 2 MiB that serving without TLS does not need

    with suppress(ValueError):  # of a kind that only the server can read
        _, end = validity(path.read_bytes())
        state.metrics.register_source("certificate", lambda: {"gateway_tls_certificate_expires_seconds": end})


def _client_connections(state: State) -> ClientConnections:
    settings = state.settings
    answer = max(settings.request_timeout_seconds, *(row.timeout or 0 for row in settings.routes))
    # A request may be tried twice.
    request = settings.queue_timeout_seconds + 2 * (settings.connect_timeout_seconds + answer)
    body = max(settings.body_timeout_seconds, settings.idle_timeout_seconds)
    stream = max(settings.alerts_heartbeat_seconds, settings.websocket_idle_timeout_seconds)
    connections = ClientConnections(
        asyncio.get_running_loop(),
        settings.port,
        settings.header_timeout_seconds,
        settings.client_keepalive_seconds,
        max(request, body, stream) + _IDLE_MARGIN_SECONDS,
        lambda closed: state.log.info(
            "client connections closed", **{reason: count for reason, count in closed.items() if count}
        ),
        noting=settings.http2 or settings.tls_cert_file is not None,
    )
    state.metrics.register_source(
        "client-connections", lambda: {"gateway_client_connections_closed_total": connections.closed}
    )
    return connections
