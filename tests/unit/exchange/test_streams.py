from __future__ import annotations

from kernel.exchange.streams import Streams


def test_a_drain_ends_every_open_stream_once() -> None:
    ended: list[str] = []
    streams = Streams()

    def one() -> None:
        ended.append("one")
        streams.discard(two)

    def two() -> None:
        ended.append("two")

    def three() -> None:
        ended.append("three")

    for end in (one, three):
        streams.add(end)
    streams.discard(three)
    streams.drain()
    assert ended == ["one"]
    assert len(streams) == 0
    streams.drain()
    assert ended == ["one"]


def test_a_stream_that_opens_during_the_drain_is_ended_at_once() -> None:
    ended: list[int] = []
    streams = Streams()
    streams.drain()
    streams.add(lambda: ended.append(1))
    assert ended == [1]
