"""The intake: requests come from another thread, in batches; each ends by its watcher, whatever happens to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from kernel.exchange.asgi import Message, Scope
from kernel.exchange.exchange import Lane
from kernel.server.intake import Intake
from tests.support.exchanges import exchange


class Proto:
    async def receive(self) -> Message:
        raise AssertionError("nothing is received")

    async def send(self, message: Message) -> None: ...


class Watcher:
    """granian's side of one request."""

    def __init__(self, number: int = 0) -> None:
        self.scope: Scope = {
            "number": number,
            "type": "http",
            "http_version": "1.1",
            "client": ("127.0.0.1", str(number)),
        }
        self.proto = Proto()
        self.ended: list[BaseException | None] = []
        self.task: asyncio.Task[None] | None = None

    def taskref(self, task: asyncio.Task[None]) -> None:
        self.task = task

    def done(self) -> None:
        self.ended.append(None)

    def err(self, error: BaseException) -> None:
        self.ended.append(error)


class Entrance:
    """In the gateway's place: notes who enters, and answers by `answer`."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.finished: list[Any] = []
        self.given_up = 0
        self.answer: Any = lambda watcher: None

    def enter(
        self, scope: Any, receive: Any, send: Any, lane: Lane | None = None, watcher: Any = None
    ) -> Awaitable[None] | None:
        self.entered.append(scope["number"])
        rest: Awaitable[None] | None = self.answer(watcher or Watcher(scope["number"]))
        return rest

    def finish(self, x: Any) -> None:
        self.finished.append(x)

    async def go_on(self, x: Any, stages: Any, stage: Any, rest: Awaitable[None]) -> None:
        await rest

    def clients(self) -> Iterator[str]:
        yield "9"

    def cut_short(self) -> None:
        self.given_up += 1


class Connections:
    """Notes what is said of clients."""

    def __init__(self, noted: dict[str, str] | None = None) -> None:
        self.noted = noted
        self.given_up: list[str] = []

    def ended(self, client: tuple[str, str]) -> None:
        self.given_up.append(client[1])


@pytest.fixture
def connections() -> Connections:
    return Connections()


@pytest.fixture
async def entrance() -> Entrance:
    return Entrance()


@pytest.fixture
async def intake(entrance: Entrance, connections: Connections) -> Intake:
    return Intake(asyncio.get_running_loop(), entrance, connections)


async def test_all_that_threads_put_enter_in_order(entrance: Entrance, intake: Intake) -> None:
    count, threads = 2000, 3

    def put(thread: int) -> None:
        for number in range(count):
            intake.put(Watcher(thread * count + number))

    putting = [threading.Thread(target=put, args=(number,)) for number in range(threads)]
    for thread in putting:
        thread.start()
    async with asyncio.timeout(10):
        while len(entrance.entered) < count * threads:
            await asyncio.sleep(0.001)
    for thread in putting:
        thread.join()
    for number in range(threads):
        own = [each for each in entrance.entered if each // count == number]
        assert own == sorted(own)


async def test_a_flood_leaves_the_loop_to_others_in_between(entrance: Entrance, intake: Intake) -> None:
    for number in range(1000):
        intake.put(Watcher(number))
    seen = []
    for _ in range(20):
        await asyncio.sleep(0)
        seen.append(len(entrance.entered))
    assert seen[-1] == 1000
    assert len(set(seen) - {0, 1000}) >= 2


async def test_one_that_cannot_enter_harms_no_other(entrance: Entrance, intake: Intake) -> None:
    def answer(watcher: Watcher) -> None:
        if watcher.scope["number"] == 1:
            raise KeyError("headers")

    entrance.answer = answer
    watchers = [Watcher(number) for number in range(3)]
    for watcher in watchers:
        intake.put(watcher)
    await asyncio.sleep(0.01)
    assert entrance.entered == [0, 1, 2]
    assert isinstance(watchers[1].ended[0], KeyError)


async def test_what_has_to_wait_is_a_task_that_ends_by_its_watcher(
    entrance: Entrance, intake: Intake
) -> None:
    async def rest(fails: bool) -> None:
        await asyncio.sleep(0)
        if fails:
            raise ValueError("broken")

    entrance.answer = lambda watcher: rest(watcher.scope["number"] == 1)
    watchers = [Watcher(0), Watcher(1)]
    for watcher in watchers:
        intake.put(watcher)
    await asyncio.sleep(0.01)
    assert watchers[0].ended == [None]
    assert isinstance(watchers[1].ended[0], ValueError)
    assert all(watcher.task is not None and watcher.task.done() for watcher in watchers)


async def test_a_stream_that_has_let_go_of_its_request_ends_like_others(
    entrance: Entrance, intake: Intake, connections: Connections
) -> None:
    async def rest(scope: Scope, fails: bool) -> None:
        scope.clear()
        if fails:
            raise ValueError("broken")

    entrance.answer = lambda watcher: rest(watcher.scope, watcher.scope["number"] == 1)
    watchers = [Watcher(0), Watcher(1)]
    for watcher in watchers:
        intake.put(watcher)
    await asyncio.sleep(0.01)
    assert watchers[0].ended == [None]
    assert isinstance(watchers[1].ended[0], ValueError)
    assert connections.given_up == ["1"]


async def test_an_exchange_on_the_lane_ends_by_its_watcher_too(entrance: Entrance, intake: Intake) -> None:
    async def rest() -> None: ...

    over, on = exchange(), exchange(type="http", client=("127.0.0.1", "1"))
    over.watcher, on.watcher = Watcher(), Watcher()
    intake.over(over)
    assert entrance.finished == [over]
    assert over.watcher.ended == [None]
    intake.go_on(on, rest())
    await asyncio.sleep(0.01)
    assert on.watcher.ended == [None]


async def test_cutting_short_ends_tasks_and_what_is_on_the_lane(entrance: Entrance, intake: Intake) -> None:
    entrance.answer = lambda watcher: asyncio.Event().wait()
    watcher = Watcher()
    intake.put(watcher)
    await asyncio.sleep(0.01)
    intake.cut_short()
    await asyncio.sleep(0.01)
    assert isinstance(watcher.ended[0], asyncio.CancelledError)
    assert entrance.given_up == 1


async def test_whose_request_is_in_flight_and_whose_was_broken_off_is_known_by_port(
    entrance: Entrance, intake: Intake, connections: Connections
) -> None:
    ends = [asyncio.Event() for _ in range(4)]

    async def rest(number: int) -> None:
        await ends[number].wait()
        if number == 1:
            raise ValueError("broken")

    entrance.answer = lambda watcher: rest(watcher.scope["number"])
    watchers = [Watcher(number) for number in range(3)]
    watchers[2].scope["type"] = "websocket"
    for watcher in watchers:
        intake.put(watcher)
    other = Watcher(3)
    serving = asyncio.create_task(intake.serve(other.scope, other.proto.receive, other.proto.send))
    await asyncio.sleep(0.01)
    assert intake.in_flight() == {"0", "1", "2", "3", "9"}
    for end in ends:
        end.set()
    await serving
    await asyncio.sleep(0.01)
    assert intake.in_flight() == {"9"}
    assert sorted(connections.given_up) == ["1", "2"]


async def test_who_has_asked_is_noted_where_that_is_wanted(entrance: Entrance) -> None:
    connections = Connections({})
    intake = Intake(asyncio.get_running_loop(), entrance, connections)
    watchers = [Watcher(number) for number in range(2)]
    watchers[1].scope["http_version"] = "2"
    for watcher in watchers:
        intake.put(watcher)
    await asyncio.sleep(0.01)
    assert entrance.entered == [0, 1]
    assert connections.noted == {"0": "1.1", "1": "2"}
