"""Names looked up again and again: what is told of them, when, and what never changes anything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.upstream.resolver import MOST_ADDRESSES, Found, Resolver, is_literal, sorted_out
from tests.support.scripted_upstream import eventually

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


class Notes:
    """Stands in for the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(event)

    warning = info


class Names:
    """A DNS that answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[str] | Exception] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        self.at_once = 0
        self.most_at_once = 0

    async def lookup(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self.answers[host]
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_once -= 1


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def notes() -> Any:
    return Notes()


@pytest.fixture
async def resolver(names: Names, notes: Any) -> AsyncIterator[Resolver]:
    resolver = Resolver(notes, 0.01, names.lookup)
    yield resolver
    await resolver.close()


async def test_changes_are_told_once_each_in_any_order_of_the_answers(
    resolver: Resolver, names: Names, notes: Any
) -> None:
    told: list[Found] = []
    names.answers["svc"] = ["10.0.0.2", "10.0.0.1"]
    resolver.watch("svc", told.append)
    await eventually(lambda: told)
    names.answers["svc"] = ["10.0.0.1", "10.0.0.2"]
    names.asked.clear()
    await eventually(lambda: len(names.asked) > 3)
    names.answers["svc"] = ["10.0.0.3"]
    await eventually(lambda: len(told) > 1)
    assert told == [Found(("10.0.0.1", "10.0.0.2")), Found(("10.0.0.3",))]
    assert notes.lines == ["addresses of a service changed"]


@pytest.mark.parametrize("failure", [socket.gaierror(-3, "try again"), UnicodeError(), RuntimeError(), []])
async def test_a_lookup_that_fails_changes_nothing_and_is_told_once(
    resolver: Resolver, names: Names, notes: Any, failure: Any
) -> None:
    told: list[Found] = []
    names.answers["svc"] = ["10.0.0.1"]
    resolver.watch("svc", told.append)
    await eventually(lambda: told)
    names.answers["svc"] = failure
    await eventually(lambda: notes.lines)
    names.asked.clear()
    await eventually(lambda: len(names.asked) > 3)
    names.answers["svc"] = ["10.0.0.1"]
    await eventually(lambda: len(notes.lines) > 1)
    assert notes.lines == ["name of a service not resolved", "name of a service resolved again"]
    assert told == [Found(("10.0.0.1",))]


async def test_a_name_that_never_was_known_is_the_probers_to_tell(
    resolver: Resolver, names: Names, notes: Any
) -> None:
    names.answers["svc"] = socket.gaierror(-2, "not known")
    resolver.watch("svc", lambda found: None)
    await eventually(lambda: len(names.asked) > 3)
    assert notes.lines == []


async def test_services_of_one_host_share_its_lookups(resolver: Resolver, names: Names) -> None:
    one: list[Found] = []
    two: list[Found] = []
    names.answers["svc"] = ["10.0.0.1"]
    names.gate = asyncio.Event()
    resolver.watch("svc", one.append)
    resolver.watch("svc", two.append)
    names.gate.set()
    await eventually(lambda: one and two)
    three: list[Found] = []
    resolver.watch("svc", three.append)
    assert one == two == three
    assert names.most_at_once == 1


async def test_silent_servers_do_not_take_all_threads(resolver: Resolver, names: Names) -> None:
    names.gate = asyncio.Event()
    for number in range(19):
        names.answers[f"svc-{number}"] = ["10.0.0.1"]
        resolver.watch(f"svc-{number}", lambda found: None)
    await eventually(lambda: names.at_once)
    await asyncio.sleep(0)
    assert names.most_at_once == 2
    names.gate.set()
    await eventually(lambda: len(set(names.asked)) == 19)


async def test_who_cannot_connect_has_it_looked_up_soon(names: Names, notes: Any) -> None:
    resolver = Resolver(notes, 3600.0, names.lookup)
    names.answers["svc"] = ["10.0.0.1"]
    told: list[Found] = []
    resolver.watch("svc", told.append)
    await eventually(lambda: told)
    names.answers["svc"] = ["10.0.0.2"]
    resolver.doubt("svc")
    resolver.doubt("nobody's")
    await eventually(lambda: len(told) == 2)
    assert names.asked == ["svc", "svc"]
    await resolver.close()


async def test_the_system_is_asked(notes: Any) -> None:
    resolver = Resolver(notes, 60.0)
    told: list[Found] = []
    resolver.watch("localhost", told.append)
    await eventually(lambda: told)
    assert {*told[0].addresses, *told[0].spare} <= {"127.0.0.1", "::1"}
    await resolver.close()


@given(st.lists(st.one_of(V4, V6), min_size=1, max_size=40))
def test_one_family_is_used_the_other_is_spare(answer: list[str]) -> None:
    found = sorted_out(answer)
    first = ":" in answer[0]
    assert 1 <= len(found.addresses) <= MOST_ADDRESSES
    assert all((":" in each) == first for each in found.addresses)
    assert all((":" in each) != first for each in found.spare)
    assert {*found.addresses, *found.spare} <= set(answer)
    assert sorted_out([answer[0], *reversed(answer)]) == found


@pytest.mark.parametrize(
    ("host", "literal"), [("127.0.0.1", True), ("::1", True), ("localhost", False), ("a.b", False)]
)
def test_literals(host: str, literal: bool) -> None:
    assert is_literal(host) is literal
