"""What the recorder does when words cross: with a log that answers when a test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from kernel.alerts.counters import Counters
from kernel.alerts.intake import Alert
from kernel.alerts.recorder import Recorder
from tests.support.store import until


class Log:
    """Keeps what it is asked to record, and says that others had recorded it before, once `let` is set."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.let = asyncio.Event()

    async def record(self, tenant: str, alerts: Sequence[tuple[str, bytes]]) -> list[int]:
        self.asked.append([key for key, _ in alerts])
        await self.let.wait()
        return [0] * len(alerts)


def recorder(log: Any) -> Recorder:
    """One that has been there for long."""
    made = Recorder(log, "me", Counters())
    made._hold = 0.001
    return made


async def test_who_hears_a_hello_while_a_call_is_under_way_records_the_rest_at_once() -> None:
    log = Log()
    one = recorder(log)
    one.offer(Alert("t", "a", b"a"))
    await until(lambda: log.asked == [["a"]])
    # From here on whoever waits for a deadline waits for ever.
    one._hold = 3600.0
    one.offer(Alert("t", "b", b"b"))
    one.joined()
    log.let.set()
    await until(lambda: log.asked == [["a"], ["b"]])
    await one.close()


async def test_without_one_who_finds_that_others_are_at_work_leaves_it_to_them() -> None:
    log = Log()
    one = recorder(log)
    one.offer(Alert("t", "a", b"a"))
    await until(lambda: log.asked == [["a"]])
    one._hold = 3600.0
    one.offer(Alert("t", "b", b"b"))
    log.let.set()
    await until(lambda: not one._running)
    assert log.asked == [["a"]]
    assert "t" in one._late
    await one.close()
    assert log.asked == [["a"], ["b"]]


async def test_who_joined_while_nothing_could_be_recorded_waits_anew_when_somebody_finds_the_store() -> None:
    log = Log()
    log.let.set()
    elder, junior = recorder(log), recorder(Log())
    elder.subscribed(reachable=True)
    await asyncio.sleep(0.1)
    for each in (elder, junior):
        each.lost()
    junior.subscribed(reachable=False)
    await asyncio.sleep(0.1)  # as long as a probation
    before = junior._probation
    for each in (elder, junior):
        each.found()
    assert junior._probation > before
    # An elder's is over: it knows all that anybody knows.
    assert elder._probation < before
    junior.found()
    again = junior._probation
    junior.found()
    assert junior._probation == again  # once is enough
    for each in (elder, junior):
        await each.close()
