from __future__ import annotations

import pytest

from kernel.upstream.parts import PartReader, Parts

KIB = 1024


@pytest.mark.parametrize(
    ("bodies", "slow", "size"),
    [
        (0, 0, 256_000),
        (32, 8, 256_000),
        (64, 0, 128_000),
        (64, 16, 128_000),
        (65, 0, 64_000),
        (97, 0, 32_000),
        (129, 0, 16_000),
        (33, 33, 16_000),
        (100_000, 100_000, 16_000),
    ],
)
def test_parts_are_small_in_a_crowd(bodies: int, slow: int, size: int) -> None:
    parts = Parts()
    parts.bodies, parts.slow = bodies, slow
    assert len(parts.view()) == size


def test_what_clients_who_do_not_read_hold_is_bounded() -> None:
    """Eight parts each, and 64 KiB; see kernel/upstream/parts.py."""
    parts = Parts()
    for slow in range(1, 1000):
        parts.bodies = parts.slow = slow
        held = 8 * len(parts.view()) + 64 * KIB
        assert slow * held <= 20 * KIB * KIB or held <= 256 * KIB


class Receiver:
    def __init__(self) -> None:
        self.told: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


def reader(length: int | None, parts: Parts | None = None) -> tuple[PartReader, Receiver]:
    receiver = Receiver()
    return PartReader(receiver, parts or Parts(), length), receiver


@pytest.mark.parametrize("length", [None, 1024 * KIB + 1, 1 << 40])
def test_a_long_answer_begins_in_small_parts_until_its_client_has_read_some(length: int | None) -> None:
    one, _ = reader(length)
    read = 0
    while read < 4096 * KIB:
        assert len(one.get_buffer(-1)) == 16_000
        one.buffer_updated(16_000)
        read += 16_000
    assert len(one.get_buffer(-1)) == 256_000


def test_for_a_stream_of_http2_small_parts_are_smaller_and_large_ones_are_not() -> None:
    parts = Parts()
    one = PartReader(Receiver(), parts, None, http2=True)
    assert len(one.get_buffer(-1)) == 10_000
    for _ in range(420):
        one.buffer_updated(10_000)
    assert len(one.get_buffer(-1)) == 256_000
    parts.bodies = 1000
    assert len(one.get_buffer(-1)) == 10_000


def test_an_answer_of_a_mebibyte_goes_in_large_parts() -> None:
    assert len(reader(1024 * KIB)[0].get_buffer(-1)) == 256_000


def test_what_is_read_is_told_whatever_the_size_of_a_part_becomes_meanwhile() -> None:
    parts, lost = Parts(), OSError()
    one, receiver = reader(1000, parts)
    first = one.get_buffer(-1)
    first[:3] = b"one"
    parts.bodies = 1000
    one.buffer_updated(3)
    second = one.get_buffer(-1)
    assert len(second) < len(first)
    second[:] = b"2" * len(second)
    one.buffer_updated(len(second))
    one.pause_writing()
    one.resume_writing()
    one.eof_received()
    one.connection_lost(lost)
    assert receiver.told == [b"one", b"2" * len(second), "pause", "resume", "eof", lost]
