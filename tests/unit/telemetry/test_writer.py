from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.telemetry.writer import FdSink, Writer


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_everything_queued_is_written_in_order_before_close_returns() -> None:
    got: list[bytes] = []
    writer = Writer(got.append)
    for number in range(1000):
        assert writer.write(b"%d\n" % number)
    assert writer.close(5)
    assert got == [b"%d\n" % number for number in range(1000)]
    assert writer.dropped == 0


def test_lines_after_close_are_counted_as_dropped() -> None:
    writer = Writer(lambda _: None)
    writer.close(5)
    assert not writer.write(b"late\n")
    assert writer.dropped == 1


def test_a_sink_that_fails_loses_its_lines_and_the_next_ones_are_tried() -> None:
    got: list[bytes] = []

    def sink(data: bytes) -> None:
        if data == b"bad\n":
            raise OSError(28, "No space left on device")
        got.append(data)

    writer = Writer(sink)
    writer.write(b"bad\n", lines=7)
    writer.write(b"good\n")
    assert writer.close(5)
    assert (got, writer.dropped) == ([b"good\n"], 7)


def test_the_queue_is_bounded_in_bytes_and_recovers() -> None:
    go, taken = threading.Event(), threading.Event()

    def sink(_: bytes) -> None:
        taken.set()
        go.wait(5)

    writer = Writer(sink, max_bytes=10)
    assert writer.write(b"12345678\n")
    taken.wait(5)
    assert not writer.write(b"12345678\n", lines=3)
    assert writer.dropped == 3
    go.set()
    while not writer.write(b"x\n"):
        pass
    assert writer.close(5)


def test_a_pipe_gets_whole_lines_in_pieces_that_cannot_mix(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, end = pipe
    pieces: list[bytes] = []
    real = os.write

    def spy(fd: int, data: bytes) -> int:
        pieces.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr("kernel.telemetry.writer.os.write", spy)
    lines = [b"%04d" % number + b"x" * (number % 700) + b"\n" for number in range(100)]
    lines[50] = b"y" * 9000 + b"\n"
    text = b"".join(lines)
    thread = threading.Thread(target=FdSink(end), args=(text,))
    thread.start()
    got = b""
    while len(got) < len(text):
        got += os.read(reader, 65536)
    thread.join()
    assert got == text
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert [piece for piece in pieces if len(piece) > 4096] == [lines[50]]


def test_a_file_gets_a_batch_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = os.write

    def spy(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr("kernel.telemetry.writer.os.write", spy)
    with (tmp_path / "log").open("wb") as file:
        FdSink(file.fileno())(b"line\n" * 10_000)
    assert sizes == [50_000]


def test_a_descriptor_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    os.set_blocking(end, False)
    text = b"line\n" * 40_000
    thread = threading.Thread(target=FdSink(end), args=(text,))
    thread.start()
    got = 0
    while got < len(text):
        got += len(os.read(reader, 65536))
    thread.join()
    assert got == len(text)
