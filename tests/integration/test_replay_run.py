"""How a capture is sent: in order, at a pace, within deadlines; and what the command says when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest

from kernel.capture.compare import DEFAULTS, Rules
from kernel.capture.reading import Entry, Read, Unreadable
from kernel.capture.replay import Report, Unreachable, replay
from kernel.capture.resend import Resender
from kernel.capture.target import Target
from kernel.cli import main
from tests.support.gateway import free_port
from tests.support.scripted_upstream import OK, Peer, scripted


def read(number: int, path: str = "/x", connection: str | None = None, **response: Any) -> Read:
    document = {
        "request": {"method": "GET", "url": f"http://old{path}?n={number}"},
        "response": {"status": 200, "headers": [], "content": {"text": "ok"}, **response},
        "connection": connection,
    }
    return Read(f"line {number}", msgspec.convert(document, Entry))


async def sent(url: str, reads: list[Read], seconds: float = 10.0, **options: Any) -> Report:
    async with Target(url, options.get("concurrency", 1), seconds, None) as target:
        return await replay(reads, Resender({}, unsafe=False), target, Rules(DEFAULTS), **options)


async def test_requests_of_one_connection_stay_in_their_order() -> None:
    seen: list[int] = []
    together = most = 0

    async def serve(peer: Peer) -> None:
        nonlocal together, most
        while True:
            head = await peer.request()
            together += 1
            most = max(most, together)
            seen.append(int(head.split(b"n=")[1].split(b" ")[0]))
            await asyncio.sleep(0.005 * (seen[-1] % 4 == 0))  # who is sent by turns falls behind
            together -= 1
            await peer.send(OK)

    async with scripted(serve) as server:
        reads = [read(number, connection=str(number % 7)) for number in range(210)]
        report = await sent(server.url, reads, concurrency=4)
        for connection in range(7):
            assert [n for n in seen if n % 7 == connection] == list(range(connection, 210, 7))
        assert 1 < most <= 4
        assert server.connections <= 4
        seen.clear()
        most = 0
        await sent(server.url, reads)
        assert seen == list(range(210))
        assert most == 1
    assert (report.sent, report.same) == (210, 210)


async def test_a_rate_is_kept() -> None:
    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with scripted(serve) as server:
        began = perf_counter()
        report = await sent(server.url, [read(number) for number in range(41)], rate=100.0, concurrency=4)
    assert report.same == 41
    assert perf_counter() - began >= 0.4


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "no answer within 0.2 s"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal", "no answer within 0.2 s"),
        (b"nonsense\r\n\r\n", ""),
    ],
)
async def test_what_is_not_answered_in_time_is_a_difference(answer: bytes, why: str) -> None:
    async def serve(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.send(OK)
        await peer.request()
        await peer.send(answer)
        await peer.gone()

    async with scripted(serve) as server:
        report = await sent(server.url, [read(0), read(1)], 0.2)
    assert (report.same, report.unanswered, report.different) == (1, 1, 0)
    ((place, found),) = report.places.items()
    assert place.kind == "no answer"
    assert why in found.difference.now


async def test_a_target_that_is_not_there_ends_it_and_one_that_goes_does_not() -> None:
    with pytest.raises(Unreachable):
        await sent(f"http://127.0.0.1:{free_port()}", [read(0), read(1)], concurrency=3)

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")

    async with scripted(serve) as server:

        def reads() -> Any:
            yield read(0)
            raise Unreadable("line 2: malformed")

        with pytest.raises(Unreadable):
            await sent(server.url, reads())
        report = await sent(server.url, [read(number) for number in range(5)])
    assert report.same == 5  # each on a connection of its own


async def test_ids_and_positions_make_no_place_of_their_own() -> None:
    documents = iter(range(100))

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            body = json.dumps({"items": [{"n": 0}, {"n": next(documents) + 1}]}).encode()
            await peer.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % len(body),
                body,
            )

    kind = [{"name": "Content-Type", "value": "application/json"}]
    text = {"text": '{"items": [{"n": 0}, {"n": 0}]}'}
    ids = ("17", "6f1c9f0e-0000-4000-8000-000000000001", "01hzy3v7q8r9s0t1u2v3w4x5y6", "deadbeefdeadbeef")
    reads = [read(n, f"/items/{each}", headers=kind, content=text) for n, each in enumerate(ids)]
    async with scripted(serve) as server:
        report = await sent(server.url, reads)
    ((place, found),) = report.places.items()
    assert (place.method, place.path, place.where, found.requests) == ("GET", "/items/{id}", "/items/*/n", 4)
    assert (found.difference.was, found.difference.now, found.first.place) == ("0", "1", "line 0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--target", "ftp://h"], "is not http://HOST:PORT"),
        (["--target", "http://h/path"], "is not http://HOST:PORT"),
        (["--target", "http://u:p@h"], "is not http://HOST:PORT"),
        (["--target", "http://h:99999"], "is not http://HOST:PORT"),
        (["--target", "http://h", "--rate", "0"], "no number above 0"),
        (["--target", "http://h", "--concurrency", "x"], "no whole number from 1"),
        (["--target", "http://h", "--ignore", "date"], "'date' is no rule"),
        (["--target", "http://h", "--token", "two words"], "is none: one word"),
        (["--target", "http://h", "--token", "@/nowhere/at/all"], "No such file"),
        (["--target", "http://h", "--token", "a", "--token", "b"], "--token is given twice"),
        (["--target", "https://h", "--ca", "/nowhere/at/all"], "No such file"),
        (["--target", "http://h"], "line 2: "),
    ],
)
def test_what_the_command_cannot_do_it_says(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.ndjson"
    entry = {"request": {"method": "POST", "url": "http://h/"}, "response": {"status": 200}}
    file.write_text(json.dumps(entry) + "\n{oops\n")
    with contextlib.suppress(SystemExit):
        assert main(["replay", str(file), *arguments]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_nothing_to_send_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.ndjson"
    file.write_text(
        json.dumps({"request": {"method": "POST", "url": "http://h/"}, "response": {"status": 200}}) + "\n"
    )
    assert main(["replay", str(file), "--target", "http://127.0.0.1:9"]) == 2
    assert "1 left out: changes something (--unsafe sends it)" in capsys.readouterr().out


async def test_what_others_wrote_drives_no_terminal(tmp_path: Path) -> None:
    file = tmp_path / "c.har"
    request = {"method": "GET", "url": "http://h/a\x1b[2Jb"}
    response = {"status": 200, "headers": [{"name": "x-a", "value": "\x9b2J\x1b[2J"}]}
    file.write_text(json.dumps({"log": {"entries": [{"request": request, "response": response}]}}))

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with scripted(serve) as server:
        command = [sys.executable, "-m", "kernel", "replay", str(file), "--target", server.url, "--diff"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    assert process.returncode == 1
    assert b"header x-a: \\x9b2J\\x1b[2J -> (absent)" in out
    assert not {0x1B, 0x9B, 0x7F} & {ord(each) for each in out.decode()}
