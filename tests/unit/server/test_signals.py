"""A stop that comes while the gateway starts is kept until somebody listens."""

from __future__ import annotations

import subprocess
import sys

# As granian's workers do: forked with the parent's handlers, then a loop that runs, stands still, and runs again.
WORKER = """
import asyncio, os, signal, sys
import uvloop
from kernel.server.signals import hold_in_workers, release_soon, tell_server

signal.signal(signal.SIGTERM, lambda *_: print("swallowed", flush=True))
hold_in_workers()
if pid := os.fork():
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.kill(os.getpid(), signal.SIGTERM)  # before there is a loop
loop = uvloop.new_event_loop()
told, stopped = asyncio.Event(), asyncio.Event()

async def start():
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, stopped.set)
    release_soon(loop)

loop.run_until_complete(start())
os.kill(os.getpid(), signal.SIGINT)  # while the loop stands still
assert signal.sigpending() == {signal.SIGTERM, signal.SIGINT}

async def drain():
    await asyncio.wait_for(told.wait(), 10)
    await asyncio.sleep(0.1)
    assert not stopped.is_set(), "the server's signal came before the drain"
    tell_server()
    await asyncio.wait_for(stopped.wait(), 10)

loop.run_until_complete(drain())
print("told")
"""

EARLY = """
import contextlib, os, signal
from kernel.server.signals import stop_cleanly

stop_cleanly()
with contextlib.ExitStack() as resources:
    resources.callback(print, "cleaned up")
    os.kill(os.getpid(), signal.SIGTERM)
    print("went on")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_worker_hears_of_a_stop_that_came_while_it_started() -> None:
    done = run(WORKER)
    assert (done.stdout, done.returncode) == ("told\n", 0), done.stderr


def test_a_stop_before_the_server_runs_leaves_through_the_exits() -> None:
    done = run(EARLY)
    assert (done.stdout, done.returncode) == ("cleaned up\n", 0), done.stderr
