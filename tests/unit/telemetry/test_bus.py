from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel.telemetry.bus import Bus, NoAnswer, listening


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    made = Bus(tmp_path, pid=1)
    await made.start()
    yield made
    await made.stop()


async def test_siblings_answer_by_verb(bus: Bus, tmp_path: Path) -> None:
    others = [Bus(tmp_path, pid=pid) for pid in (2, 3)]
    for other in others:
        other.on("echo", lambda payload, pid=other.pid: b"%d:%b" % (pid, payload))  # type: ignore[misc]
        await other.start()
    assert await bus.ask("echo", b"hello" * 50_000) == {
        2: b"2:" + b"hello" * 50_000,
        3: b"3:" + b"hello" * 50_000,
    }
    for other in others:
        await other.stop()
    assert await bus.ask("echo") == {}


async def test_a_sibling_that_is_gone_is_told_from_one_that_hangs(bus: Bus, tmp_path: Path) -> None:
    hung = Bus(tmp_path, pid=2)
    hung.bind()
    dead = Bus(tmp_path, pid=3)
    dead.bind()
    assert dead._socket is not None
    dead._socket.close()
    assert await bus.ask("echo", wait=0.05) == {2: NoAnswer.HUNG, 3: NoAnswer.GONE}
    assert listening(tmp_path, 2)
    assert not listening(tmp_path, 3)
    assert not listening(tmp_path, 4)
    assert hung._socket is not None
    hung._socket.close()


async def test_a_sibling_with_a_full_queue_of_connections_counts_as_there(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "worker-9.sock"))
    listener.listen(0)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(str(tmp_path / "worker-9.sock"))
    assert listening(tmp_path, 9)
    for one in (*clients, listener):
        one.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\x01"]
)
async def test_garbage_is_not_answered_and_harms_nothing(bus: Bus, tmp_path: Path, sent: bytes) -> None:
    bus.on("echo", lambda payload: payload)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "worker-1.sock")
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    asking = Bus(tmp_path, pid=2)
    assert await asking.ask("echo", b"still there") == {1: b"still there"}


async def test_an_unknown_verb_gets_no_answer(bus: Bus, tmp_path: Path) -> None:
    assert await Bus(tmp_path, pid=2).ask("nonsense") == {1: NoAnswer.HUNG}


async def test_a_stale_address_is_taken_over(tmp_path: Path) -> None:
    stale = Bus(tmp_path, pid=1)
    stale.bind()
    assert stale._socket is not None
    stale._socket.close()
    fresh = Bus(tmp_path, pid=1)
    fresh.on("echo", lambda payload: payload)
    await fresh.start()
    assert await Bus(tmp_path, pid=2).ask("echo", b"x") == {1: b"x"}
    await fresh.stop()


def test_a_directory_whose_name_is_too_long_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="GATEWAY_RUN_DIR"):
        Bus(Path("/tmp") / ("x" * 100))
