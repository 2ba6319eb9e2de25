"""Supervisor: the parent's side of the workers. granian knows how to start and stop one; here is decided when.

Rules:
- On a reload an old worker goes when its successor serves, not before; one that does not get so far changes nothing.
- A worker that dies is replaced: at once, or after a pause that grows while its successors die young. Only a gateway none
  of whose workers has ever served gives up.
- A stop is heard at any moment, in the middle of a reload too; nothing here blocks for longer than a glance.
- Forked workers have a listening socket each, all on one port (SO_REUSEPORT), and the parent holds every one of them
  open: whoever waits to be accepted there is accepted by the next worker, when one ends or dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from kernel.server.granian import Process, ProcessServer
from kernel.server.reload import Reload
from kernel.server.terminal import renew_streams, say
from kernel.server.worker import Loader, serving_mark

# A new worker is given so long to serve; it takes a second of a busy machine.
_START_SECONDS = 30.0
# Between telling the clients of an old worker, with their next response, to connect anew, and ending it.
_HANDOVER_SECONDS = 1.0
_GLANCE_SECONDS = 0.02
# A worker that served for less than this died young. Its place pauses 1/2, 1, 2, 4, 5, 5, ... seconds.
_YOUNG_SECONDS = 2.0
_MAX_PAUSE_SECONDS = 5.0


class _Bell(threading.Event):
    """An event that a signal handler may set: threading's own asks for a lock, which what it interrupts may hold."""

    def __init__(self) -> None:
        super().__init__()
        self._rung: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._rung.put(None)

    def clear(self) -> None:
        """`wait` has done it."""

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._rung.get(timeout=timeout)
            while True:
                self._rung.get_nowait()
        except Empty:
            return True


class Supervisor(ProcessServer):
    """granian's server of worker processes, with another mind about their comings and goings.

    Args:
        loader: makes the workers' applications.
        reload: reads the configuration again.
        drain: seconds that workers go on accepting after SIGTERM.
        kill_after: seconds until a worker that was told to end, and does not wait for balancers any more, is killed.
        options: granian's.
    """

    def __init__(
        self, loader: Loader, reload: Reload, drain: float, kill_after: float, options: dict[str, Any]
    ) -> None:
        self._bell = _Bell()
        super().__init__(loader, self._bell, options)
        self._loader = loader
        self._read_again = reload
        self._drain = drain
        self._kill_after = kill_after
        # By place.
        self._workers: list[Process] = []
        # Workers that drain, and when each is killed.
        self._leaving: list[tuple[Process, float]] = []
        # Place of a worker that has died -> when to start the next; and how many died young there, one after the other.
        self._due: dict[int, float] = {}
        self._early_deaths: dict[int, int] = {}
        self._ever_served = False

    # --- the parent's life -------------------------------------------------------------------------------------------

    def live(self) -> bool:
        """Until a stop; True when nothing can ever come of it."""
        for place in range(self.places):
            renew_streams()
            worker = self.made(place)
            worker.start()
            self._workers.append(worker)
        while True:
            self._bell.wait(self._next_due())
            if self.stopping:
                return False
            for place in range(self.places):
                if place not in self._due and not self._workers[place].is_alive() and self._died(place):
                    return True
            now = time.monotonic()
            for place in [place for place, due in self._due.items() if due <= now]:
                self._start_at(place)
            self._see_off(now)
            if self.take_reload() and self._read_again() and not self._roll():
                self._read_again.undo()

    def certificate(self) -> tuple[Path, Path] | None:
        settings = self._loader.settings
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        return settings.tls_cert_file, settings.tls_key_file

    def _next_due(self) -> float | None:
        """Seconds until something is due, if anything is."""
        dues = [*self._due.values(), *(killed for _, killed in self._leaving)]
        return max(min(dues) - time.monotonic(), 0.0) if dues else None

    # --- one place ---------------------------------------------------------------------------------------------------

    def _died(self, place: int) -> bool:
        """Have a worker that died replaced; True when there is no hope."""
        worker = self._workers[place]
        served = self._forget(worker)
        if not self._ever_served:
            say(f"worker {place + 1} ended before it served: giving up")
            return True
        now = time.monotonic()
        old = served and now - worker.born >= _YOUNG_SECONDS
        deaths = self._early_deaths[place] = 0 if old else self._early_deaths.get(place, 0) + 1
        self._put_off(place, deaths - (1 if served else 0))
        return False

    def _put_off(self, place: int, deaths: int) -> None:
        pause = min(2.0 ** (deaths - 2), _MAX_PAUSE_SECONDS) if deaths > 0 else 0.0
        if pause:
            say(f"worker {place + 1} dies again and again: the next one starts in {pause:g} s")
            if any(worker.is_alive() for worker in self._workers):
                self.close(place)  # who would wait there goes to the others
        self._due[place] = time.monotonic() + pause

    def _start_at(self, place: int) -> None:
        worker = self._started(place)
        if worker is None:
            deaths = self._early_deaths[place] = self._early_deaths.get(place, 0) + 1
            self._put_off(place, deaths)
            return
        del self._due[place]
        self._workers[place] = worker

    def _started(self, place: int) -> Process | None:
        """A new worker, not yet one of ours; None when the system has no process to give."""
        worker = self.made(place)
        renew_streams()
        try:
            worker.start()
        except OSError as error:
            say(f"worker {place + 1} cannot be started: {error.strerror}")
            return None
        return worker

    def _serves(self, worker: Process) -> bool:
        return serving_mark(self._loader.run_dir, worker.pid).exists()

    def _forget(self, worker: Process) -> bool:
        """It is gone, and its number may be another's; whether it had served."""
        mark = serving_mark(self._loader.run_dir, worker.pid)
        served = mark.exists()
        self._ever_served = self._ever_served or served or any(map(self._serves, self._workers))
        mark.unlink(missing_ok=True)
        return served

    # --- a reload ----------------------------------------------------------------------------------------------------

    def _roll(self) -> bool:
        """New workers take over, one place after the other; False when one does not come to serve."""
        for place in range(self.places):
            old = self._workers[place]
            new = self._started(place)
            if new is None:
                return False
            self._wait(_START_SECONDS, lambda: self._serves(new) or not new.is_alive())  # noqa: B023  # called here
            if self.stopping:
                self._leaving.append((new, 0.0))
                return True
            if not self._serves(new):
                new.kill()
                say(f"worker {place + 1} does not start with it: the old ones go on")
                return False
            self._workers[place] = new
            self._due.pop(place, None)
            self._early_deaths.pop(place, None)
            if old.is_alive():
                self._hand_over(old)
            else:
                self._forget(old)
        return True

    def _hand_over(self, old: Process) -> None:
        old.hand_over()
        self._wait(_HANDOVER_SECONDS, lambda: not old.is_alive())
        old.hurry()
        self._leaving.append((old, time.monotonic() + self._kill_after))

    def _see_off(self, now: float) -> None:
        """Let go of the workers that have drained, and kill those that cannot."""
        for worker, killed in self._leaving:
            if worker.is_alive() and killed <= now:
                self._kill(worker)
            if not worker.is_alive():
                self._forget(worker)
        self._leaving = [(worker, killed) for worker, killed in self._leaving if worker.is_alive()]

    def _kill(self, worker: Process) -> None:
        say(f"worker {worker.place + 1} is killed: it does not end within its grace")
        worker.kill()

    def _wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Until `over`, a stop, or so long."""
        end = time.monotonic() + seconds
        while not over() and not self.stopping and time.monotonic() < end:
            time.sleep(_GLANCE_SECONDS)

    def end(self) -> None:
        """All of them, those included that drain already; whoever does not end in time is killed."""
        self._workers += [worker for worker, _ in self._leaving]
        for worker in self._workers:
            worker.terminate()
        end = time.monotonic() + self._drain + self._kill_after
        waiting = True
        while any(worker.is_alive() for worker in self._workers) and time.monotonic() < end:
            if waiting and self.hurried:
                waiting = False
                end = time.monotonic() + self._kill_after
                for worker in self._workers:
                    worker.hurry()
            time.sleep(_GLANCE_SECONDS)
        for worker in self._workers:
            if worker.is_alive():
                self._kill(worker)
