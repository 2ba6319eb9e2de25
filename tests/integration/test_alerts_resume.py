"""Every alert exactly once and in order, whatever happens to gateways, workers and connections.

ALERTS_TEST_EVENTS=10000 makes the long run of it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayFactory, GatewayProcess, start_gateway, workers
from tests.support.poll import poll
from tests.support.publisher import Publisher
from tests.support.recorder import Recorder
from tests.support.stack import stack_env

EVENTS = int(os.environ.get("ALERTS_TEST_EVENTS", "2000"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[GatewayFactory]:
    """Starts gateways that are stopped with the test."""
    running: list[GatewayProcess] = []

    def start(env: dict[str, str]) -> GatewayProcess:
        running.append(start_gateway(env, tmp_path))
        return running[-1]

    yield start
    for gateway in running:
        gateway.process.send_signal(signal.SIGTERM)
    for gateway in running:
        gateway.stop()


@pytest.fixture
def publisher(mortal_store: EmbeddedStore) -> Iterator[Publisher]:
    publisher = Publisher(mortal_store.url)
    yield publisher
    publisher.client.close()


def env(upstream: Recorder, store: EmbeddedStore, **changes: str) -> dict[str, str]:
    return stack_env(
        upstream,
        store,
        **{
            "ALERTS_RETENTION_EVENTS": "100000",
            "SHUTDOWN_GRACE_SECONDS": "5",
            "ALERTS_HEARTBEAT_SECONDS": "1",
            **changes,
        },
    )


class Reader(threading.Thread):
    """Reads alerts until it has `count`, over streams that it opens at random at one of the gateways."""

    def __init__(self, gateways: list[GatewayProcess], count: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.gateways = gateways
        self.count = count
        self.chance = random.Random(seed)
        self.seen: list[str] = []
        self.strange: list[str] = []
        self.connections = 0
        self.started_reading = threading.Event()
        self.give_up = time.monotonic() + 50

    def run(self) -> None:
        last_id = ""
        while len(self.seen) < self.count and time.monotonic() < self.give_up:
            gateway = self.chance.choice(self.gateways)
            try:
                source = EventSource(gateway.port, last_id=last_id, timeout=2)
            except (OSError, AssertionError):
                time.sleep(0.01)
                continue
            self.connections += 1
            with source:
                if source.status == 200:
                    self._read(source)
                    last_id = source.last_id or last_id

    def _read(self, source: EventSource) -> None:
        until = len(self.seen) + self.chance.randint(1, max(2, self.count // 20))
        try:
            source.ready()
            self.started_reading.set()
            while len(self.seen) < min(until, self.count):
                message = source.next()
                if message.event == "alert":
                    self.seen.append(message.json["alert_id"])
                else:
                    self.strange.append(message.event)
        except (OSError, AssertionError):
            pass
        # What was dispatched before the connection broke is known, too.
        for message in source.pending():
            self.seen.append(message.json["alert_id"])


def test_rolling_restarts_lose_and_repeat_nothing(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateways = [start(env(upstream, mortal_store)) for _ in range(2)]
    readers = [Reader(gateways, EVENTS, seed) for seed in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        assert reader.started_reading.wait(5)
    expected: list[str] = []
    over = threading.Event()

    def publish() -> None:
        chance = random.Random(7)
        while len(expected) < EVENTS:
            burst = min(chance.randint(1, 40), EVENTS - len(expected))
            expected.extend(publisher.alert() for _ in range(burst))
            time.sleep(chance.random() * 0.03)
        over.set()

    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    turn = 0
    while not over.is_set() or turn < 4:
        # One after the other, kindly or not; each is back before the next one goes.
        old = gateways[turn % 2]
        old.stop(signal.SIGKILL if turn % 3 == 2 else signal.SIGTERM)
        poll(lambda port=old.port: _free(port))  # type: ignore[misc]
        gateways[turn % 2] = start({**env(upstream, mortal_store), "PORT": str(old.port)})
        turn += 1
    publishing.join()
    for reader in readers:
        reader.join(30)
        assert reader.strange == []
        assert reader.seen == expected
        assert reader.connections > 5


def test_reloads_keep_the_order(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateway = start(env(upstream, mortal_store, WORKERS="2"))
    expected: list[str] = []
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            expected.append(publisher.alert())
            time.sleep(0.01)

    with EventSource(gateway.port) as source:
        known = source.ready().last_id
    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    for _ in range(3):
        old = set(workers(gateway))
        gateway.process.send_signal(signal.SIGHUP)
        poll(lambda: len(workers(gateway)) == 2 and not old & set(workers(gateway)), 20)  # noqa: B023
    over.set()
    publishing.join()
    with EventSource(gateway.port, last_id=known) as source:
        assert [message.json["alert_id"] for message in source.take(len(expected))] == expected


def _free(port: int) -> bool:
    """Whether nobody listens: the workers of a gateway that was killed outright drain after it."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_killed_recorder_is_replaced_and_a_killed_worker_comes_back(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateway = start(env(upstream, mortal_store, WORKERS="3"))
    poll(lambda: publisher.client.pubsub_numpat() and len(publisher.client.client_list(_type="pubsub")) == 3)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(gateway.process.pid)], capture_output=True, text=True, check=True
    )
    pids = [int(pid) for pid in children.stdout.split()]
    heard: Any = publisher.client.pubsub()  # type: ignore[no-untyped-call]
    heard.subscribe("gateway:alerts:recorded")
    heard.get_message(timeout=1)
    expected = []
    source = EventSource(gateway.port).ready()
    known = source.last_id
    for _ in range(2):
        expected.append(publisher.alert())
        message = poll(lambda: heard.get_message(timeout=0.1))
        recorder = int(message["data"].split()[1].split(b"-")[0])
        assert recorder in pids
        # It dies with alerts on their way.
        os.kill(recorder, signal.SIGSTOP)
        expected += [publisher.alert() for _ in range(20)]
        os.kill(recorder, signal.SIGKILL)
        expected += [publisher.alert() for _ in range(20)]
        pids.remove(recorder)
        while poll(lambda: heard.get_message(timeout=0.1))["data"].find(expected[-1].encode()) < 0:
            pass
    source.close()
    with EventSource(gateway.port, last_id=known) as source:
        assert [message.json["alert_id"] for message in source.take(82)] == expected
    heard.close()


def test_a_store_that_goes_and_comes_back_with_its_data_lost_resets(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateway = start(env(upstream, mortal_store))
    with EventSource(gateway.port) as source:
        source.ready()
        publisher.alert()
        source.next()
        mortal_store.kill()
        # Opened in the meantime: it waits, too.
        with EventSource(gateway.port, last_id=source.last_id) as late:
            comments = late.parser.comments
            late.wait(lambda: late.parser.comments > comments)
            mortal_store.start()
            assert source.next().event == "reset"
            assert late.next().event == "reset"
            poll(lambda: publisher.client.pubsub_numpat() == 1)
            new = publisher.alert()
            assert source.next().json["alert_id"] == late.next().json["alert_id"] == new


def test_a_gap_that_is_too_old_gives_one_reset_and_what_is_kept(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateway = start(env(upstream, mortal_store, ALERTS_RETENTION_EVENTS="50"))
    with EventSource(gateway.port) as source:
        known = source.ready().last_id
        expected = [publisher.alert() for _ in range(50)]
        source.take(50)
    # The very last that is kept is no gap yet.
    with EventSource(gateway.port, last_id=known) as source:
        assert [message.json["alert_id"] for message in source.take(50)] == expected
        expected.append(publisher.alert())
        source.next()
    with EventSource(gateway.port, last_id=known) as source:
        first, *rest = source.take(51)
        assert (first.event, first.json) == ("reset", {"reason": "too-old"})
        assert [message.json["alert_id"] for message in rest] == expected[1:]
        assert publisher.alert() == source.next().json["alert_id"]


def test_a_stuck_reader_is_cut_off_counted_and_resumes(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    changes = {
        "ALERTS_QUEUE_EVENTS": "100",
        "ALERTS_QUEUE_BYTES": "200KiB",
        "ALERTS_RETENTION_EVENTS": "1000",
    }
    gateway = start(env(upstream, mortal_store, **changes))
    with EventSource(gateway.port, timeout=10) as stuck, EventSource(gateway.port) as other:
        stuck.ready()
        other.ready()
        expected: list[str] = []
        while "stream-slow" not in gateway.log():
            assert len(expected) < 800
            expected += [publisher.alert(padding="x" * 30_000) for _ in range(10)]
            assert [message.json["alert_id"] for message in other.take(10)] == expected[-10:]
        # What was on its way still comes; then the connection breaks.
        while not stuck.closed:
            stuck._receive()
            stuck._unchunk()
        seen = [message.json["alert_id"] for message in stuck.pending()]
        assert seen == expected[: len(seen)]
    with EventSource(gateway.port, last_id=stuck.last_id) as again:
        rest = again.take(len(expected) - len(seen))
        assert seen + [message.json["alert_id"] for message in rest] == expected
    # The access log says it; a stack would say nothing more.
    assert "Traceback" not in gateway.log()


def test_a_drain_ends_streams_at_once_with_a_jittered_retry(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    gateway = start(env(upstream, mortal_store, SHUTDOWN_GRACE_SECONDS="20"))
    sources = [EventSource(gateway.port).ready() for _ in range(50)]
    stuck = EventSource(gateway.port).ready()
    stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    known = sources[0].last_id
    last = publisher.alert()
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    for source in sources:
        found = source.until_closed()
        assert [message.event for message in found] in ([], ["alert"])
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - began < 10
    assert len({source.parser.retry for source in sources}) > 10
    for source in (*sources, stuck):
        source.close()
    successor = start(env(upstream, mortal_store))
    with EventSource(successor.port, last_id=known) as source:
        assert source.next().json["alert_id"] == last


def test_streams_beyond_the_cap_are_refused(
    start: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    publisher: Publisher,
) -> None:
    changes = {"ALERTS_MAX_STREAMS": "2", "MAX_REQUESTS_IN_FLIGHT": "1"}
    gateway = start(env(upstream, mortal_store, **changes))
    with EventSource(gateway.port) as one, EventSource(gateway.port) as two:
        one.ready()
        two.ready()
        refused = EventSource(gateway.port)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        refused.close()
        publisher.alert()
        one.next()
        two.next()

    def admitted() -> bool:
        with EventSource(gateway.port) as source:
            return source.status == 200

    poll(admitted)
