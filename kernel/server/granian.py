"""granian's private side: the only file that knows it, so that a new version is read against one page.

Beyond its documented options, this is used of granian:
1. `granian.server.mp._new_cbscheduler` makes a `CallbackScheduler`; its `_schedule_fn`, which can be set once, is called
   for each request.
2. What `_schedule_fn` is called with: `Watcher`.
3. `MPServer`: its life (`_serve`, `startup`, `shutdown`), its workers (`_spawn_worker`, `_spawn_workers`, `_stop_workers`,
   `ssl_ctx`),
   its listening sockets (`_init_shared_socket`, `_drop_shared_socket`, `_ssp`, `_shd`, `_sso`) and its signals
   (`signal_handler_interrupt`, `interrupt_signal`, `interrupt_children`, `reload_signal`, `main_loop_interrupt`).
   tests/integration/test_supervisor.py is what holds these.
1 and 2 are looked at in each worker: without them it serves by granian's own scheduler, a task a request, and says so.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast

from kernel.config import Settings
from kernel.exchange.asgi import Receive, Scope, Send
from kernel.server.signals import HAND_OVER, HURRY
from kernel.telemetry.log import server_logging

# PERF: jemalloc, which granian brings, reads this when it is loaded. It moves every block of 16 KiB or more to a random place
# within one page more; the read buffer of an HTTP/1.1 connection is such a block, and that page was 4 KiB of each
# connection's memory.
os.environ.setdefault("_RJEM_MALLOC_CONF", "cache_oblivious:false")

import granian
import granian.server.mp
from granian._granian import CallbackScheduler, ListenerSpec
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols, TaskImpl
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server.mp import MPServer, WorkerProcess

# The versions all of this was checked with: from the first, below the second. pyproject.toml says the same.
CHECKED = ("2.8.7", "2.9")


class Proto(Protocol):
    """One request's ASGI channels."""

    @property
    def receive(self) -> Receive: ...

    @property
    def send(self) -> Send: ...


class Watcher(Protocol):
    """What granian hands over for each request: a `Watcher` as an exchange knows it, with the request.

    Not its heir: compiled, that could have none that is not.
    """

    @property
    def scope(self) -> Scope: ...

    @property
    def proto(self) -> Proto: ...

    def taskref(self, task: asyncio.Task[None]) -> None: ...

    def done(self) -> None: ...

    def err(self, error: BaseException) -> None: ...


Put = Callable[[Watcher], None]


def version() -> str:
    """granian's own."""
    return granian.__version__


class Hook:
    """One a worker, made before granian asks for its scheduler: has it call what `intake` makes for every request.

    `tell` it whom to report to, `check` once granian must have asked, say `passed_by` when a request came another way.
    """

    def __init__(self, intake: Callable[[asyncio.AbstractEventLoop], Put]) -> None:
        self._intake = intake
        self._report: Callable[[str], None] | None = None
        # Why it does not; "" when it does, None until that is known.
        self._refusal: str | None = None
        module: Any = granian.server.mp
        self._make: Callable[..., Any] | None = getattr(module, "_new_cbscheduler", None)
        if self._make is None:
            self._refuse("there is no granian.server.mp._new_cbscheduler")
        else:
            module._new_cbscheduler = self._scheduler

    def tell(self, report: Callable[[str], None]) -> None:
        """Have `report` called with the reason, once, if granian does not take it."""
        self._report = report
        if self._refusal:
            report(self._refusal)

    def check(self) -> None:
        if self._refusal is None:
            self._refuse("granian.server.mp._new_cbscheduler is not called")

    def passed_by(self) -> None:
        self.check()
        if not self._refusal:
            self._refuse("requests do not come by CallbackScheduler._schedule_fn")

    def _scheduler(self, loop: asyncio.AbstractEventLoop, *options: Any, **named: Any) -> Any:
        assert self._make is not None
        try:
            # The arguments are for tasks of granian's own; what is called for a request can be set once.
            made = cast("Any", CallbackScheduler)(loop, None, None, None, None)
            made._schedule_fn = self._intake(loop)
        except (AttributeError, TypeError) as error:
            self._refuse(str(error))
            return self._make(loop, *options, **named)
        self._refusal = ""
        return made

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        if self._report is not None:
            self._report(reason)


def server_options(settings: Settings, connections: int) -> dict[str, Any]:
    """granian's options for `settings`; a worker takes so many `connections`."""
    return {
        "address": settings.host,
        "port": settings.port,
        "interface": Interfaces.ASGI,
        "workers": settings.workers,
        "loop": Loops.uvloop,
        "task_impl": TaskImpl.asyncio,
        # PERF: 24 bytes are read to tell the two apart. A read buffer of HTTP/1.1 then grows from 8 to 16 KiB, of which
        # 8 stay resident as long as the connection; without HTTP/2 a fresh one, untouched, follows the head.
        "http": HTTPModes.auto if settings.http2 else HTTPModes.http1,
        "websockets": True,
        "backlog": 4096,
        "backpressure": connections,
        "http1_settings": HTTP1Settings(
            # It begins when a connection waits for its next request, and so covers the time between two. Heads that take long
            # are cut by client_connections.py, on Linux.
            header_read_timeout=int(
                1000 * (settings.client_keepalive_seconds + settings.header_timeout_seconds)
            ),
            # Room for a head somewhat over our own limit, so that it gets our 431 and not a bare one.
            max_buffer_size=max(2 * settings.max_header_bytes, 64 * 1024),
        ),
        "http2_settings": HTTP2Settings(max_headers_size=2 * settings.max_header_bytes),
        "log_enabled": True,
        "log_dictconfig": server_logging(pretty=settings.structlog_pretty_print, colour=sys.stdout.isatty()),
        "ssl_cert": settings.tls_cert_file,
        "ssl_key": settings.tls_key_file,
        # rustls has no other ciphers for 1.2 than those with forward secrecy and AEAD.
        "ssl_protocol_min": SSLProtocols(f"tls{settings.tls_min_version}"),
    }


class Process:
    """A worker's process."""

    __slots__ = ("_inner", "born", "place")

    def __init__(self, inner: WorkerProcess) -> None:
        self._inner = inner
        self.place: int = inner.idx
        # By the monotonic clock.
        self.born: float = inner.birth

    @property
    def pid(self) -> int | None:
        """Its number, once it was started."""
        pid: int | None = self._inner.inner.pid
        return pid

    def start(self) -> None:
        """Raises OSError: the system has no process to give."""
        self._inner.start()

    def is_alive(self) -> bool:
        """False, too, before it was started."""
        alive: bool = self._inner.is_alive()
        return alive

    def terminate(self) -> None:
        """SIGTERM: drain, then end."""
        self._inner.terminate()

    def hurry(self) -> None:
        """End, without the drain's wait for balancers."""
        self._inner.interrupt_by_parent = True
        self._signal(HURRY)

    def hand_over(self) -> None:
        """Another worker has taken its place."""
        self._signal(HAND_OVER)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            if self.pid is not None and self.is_alive():
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._inner.kill()
        self._inner.join()


class ProcessServer(MPServer):
    """granian's server of worker processes, as far as it is used. An heir says when workers come and go.

    Args:
        load: makes a worker's application, in its process.
        bell: rung when a signal has come.
        options: granian's.
    """

    def __init__(self, load: Callable[[], Any], bell: Event, options: dict[str, Any]) -> None:
        super().__init__("kernel.server.worker", **options)
        self.main_loop_interrupt = bell
        self.places: int = self.workers
        self._load = load
        self._target: Any = None
        self._hurried = False
        # A listening socket for each place, where forked workers have one each.
        self._listeners: list[Any] = []

    def run(self) -> None:
        """Serve until told to stop. Raises SystemExit when no worker could ever serve."""
        self.serve(target_loader=self._load, wrap_loader=False)

    # --- for the heir ------------------------------------------------------------------------------------------------

    def live(self) -> bool:
        """Start the workers and look after them until a stop; True when nothing can ever come of it."""
        raise NotImplementedError

    def end(self) -> None:
        """End all workers."""
        raise NotImplementedError

    def certificate(self) -> tuple[Path, Path] | None:
        """The files that a new worker reads for TLS: chain and key."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """SIGTERM or SIGINT has come."""
        stopping: bool = self.interrupt_signal
        return stopping

    @property
    def hurried(self) -> bool:
        """Somebody waits for the end: SIGINT has come (Ctrl-C), or a second stop."""
        return self._hurried

    def take_reload(self) -> bool:
        """Whether SIGHUP has come since it was asked last."""
        asked: bool = self.reload_signal
        self.reload_signal = False
        return asked

    def made(self, place: int) -> Process:
        """A new worker, to be started."""
        load = self._load
        pair = self.certificate()
        if pair is not None:
            self.ssl_ctx: tuple[Any, ...] = (True, *map(str, pair), *self.ssl_ctx[3:])
        if self._listeners:
            if self._listeners[place] is None:
                self._listeners[place] = self._listener()
            self._shd: Any = self._listeners[place]
            others = [each.get_fd() for each in self._listeners if each not in {None, self._shd}]
            load = partial(_alone, self._shd.get_fd(), others, load)
        return Process(self._spawn_worker(place, self._target, load))

    def close(self, place: int) -> None:
        """Close the parent's copy of a place's listening socket: who would wait there goes to the others."""
        if self._listeners and self._listeners[place] is not None:
            os.close(self._listeners[place].get_fd())
            self._listeners[place] = None

    # --- what granian calls ------------------------------------------------------------------------------------------

    def _serve(self, spawn_target: Any, target_loader: Any) -> None:
        self._target = spawn_target
        try:
            self.startup(spawn_target, target_loader)
            failed = self.live()
        except BaseException:
            # Whatever it was: workers without a parent would have to be killed by hand.
            self._drop_shared_socket()
            self._stop_workers()
            raise
        self.interrupt_children.clear()  # granian's own list of deaths, which would spoil the exit code
        self.shutdown(int(failed))

    def signal_handler_interrupt(self, number: int, frame: Any) -> None:
        self._hurried = self.stopping or number == signal.SIGINT
        super().signal_handler_interrupt(number, frame)

    def _spawn_workers(self, spawn_target: Any, target_loader: Any) -> None:
        """They are the heir's."""

    def _stop_workers(self) -> None:
        self.end()

    def _init_shared_socket(self) -> None:
        # Elsewhere SO_REUSEPORT does not spread connections.
        if not sys.platform.startswith("linux") or multiprocessing.get_start_method() != "fork":
            super()._init_shared_socket()
            return
        self._ssp = self._sso = None
        self._listeners = [self._listener() for _ in range(self.places)]

    def _listener(self) -> Any:
        """A bound socket; it listens when its worker does. granian leaves closing it to us."""
        return ListenerSpec(self.bind_addr, self.bind_port, self.backlog).build()

    def _drop_shared_socket(self) -> None:
        for place in range(len(self._listeners)):
            self.close(place)
        super()._drop_shared_socket()


def _alone(own: int, others: list[int], load: Callable[[], Any]) -> Any:
    """In a new worker: let go of its neighbours' sockets. Held on to, they would listen when nobody accepts any more."""
    for fd in others:
        os.close(fd)
    worker = load()
    worker.listener = own
    return worker
