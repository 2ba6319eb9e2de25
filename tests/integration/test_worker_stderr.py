"""What a worker writes to stderr is a line of the log: also its last words."""

from __future__ import annotations

import json
from pathlib import Path

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import start_gateway
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import stack_env

PANIC = "thread '<unnamed>' panicked at src/tls.rs:1:1:\nno such file, token=s3cret\nnote: run with `RUST_BACKTRACE=1`"
# As a panic does, a worker writes it past all that Python has; a second one when it ends.
PANICS = f"""
import os, kernel.server.worker
start, stop = kernel.server.worker.Worker._start, kernel.server.worker.Worker._stop
async def fail(worker):
    for line in {PANIC!r}.splitlines(keepends=True):
        os.write(2, line.encode())
    await start(worker)
async def end(worker):
    await stop(worker)
    os.write(2, b"the end")
kernel.server.worker.Worker._start, kernel.server.worker.Worker._stop = fail, end
"""


def test_it_is_json_where_the_log_is(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path, first=PANICS)
    poll(lambda: "worker stderr" in gateway.log())
    assert gateway.stop() == 0
    records = [json.loads(line) for line in gateway.log().splitlines() if not line.startswith("gateway: ")]
    said = [record for record in records if record["event"] == "worker stderr"]
    assert [record["level"] for record in said] == ["error", "error"]
    assert [record["text"] for record in said] == [PANIC.replace("s3cret", "[redacted]"), "the end"]


def test_it_is_text_for_people(tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore) -> None:
    env = stack_env(upstream, session_store, STRUCTLOG_PRETTY_PRINT="true")
    gateway = start_gateway(env, tmp_path, first=PANICS)
    assert gateway.stop() == 0
    assert PANIC in gateway.log()
