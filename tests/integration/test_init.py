"""As process 1 of a container: orphans are taken in, signals passed on, and the exit code is the gateway's.

A subreaper (prctl) is handed orphans just as process 1 is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import start_gateway
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import stack_env

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="subreapers are Linux's")

ROOT = Path(__file__).parents[2]
AS_INIT = """
import ctypes, kernel.server.init
ctypes.CDLL(None).prctl(36, 1)
kernel.server.init.is_init = lambda: True
"""
# Makes an orphan that ends at once, again and again, and ends with 7 when the line feed on stdin comes.
ORPHANS = (
    AS_INIT
    + """
import os, subprocess, sys
def main():
    for _ in range(20):
        subprocess.run(["/bin/sh", "-c", "/bin/true & exit 0"], check=True)
    print("done", flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)
    return 7
sys.exit(kernel.server.init.run_under_init(main))
"""
)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("end", "code"), [("returns", 7), ("killed", 128 + 9)])
def test_orphans_are_taken_in_and_the_exit_code_is_the_childs(end: str, code: int) -> None:
    command = [sys.executable, "-c", ORPHANS, end]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        poll(lambda: len(children(process.pid)) == 1)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(10) == code


def test_the_gateway_runs_under_it_and_hears_signals(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path, first=AS_INIT)
    assert len(children(gateway.process.pid)) == 1
    gateway.process.send_signal(signal.SIGHUP)
    poll(lambda: "SIGHUP: the workers are replaced" in gateway.log())
    assert ask(gateway.port, request(target=b"/health/live")).status == 200
    assert gateway.stop() == 0


def test_elsewhere_there_is_no_such_process(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path)
    [worker] = children(gateway.process.pid)
    assert children(worker) == []
    assert gateway.stop() == 0
