"""TLS towards services: who is trusted, what is shown, why it failed, and sessions that go on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from kernel.primitives.tls import client_context, explain
from tests.support.certificates import pair
from tests.support.scripted_upstream import Peer, eventually, scripted


@asynccontextmanager
async def server(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Answers every line with itself, at the port; without TLS as an HTTP server does, at once."""

    async def script(peer: Peer) -> None:
        if tls is None:
            await peer.reader.read(1)
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while line := await peer.reader.readline():
            await peer.send(line)

    async with scripted(script, tls=tls) as running:
        yield running.port
        await eventually(lambda: not running.open)


def shows(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


async def talk(port: int, context: ssl.SSLContext) -> ssl.SSLObject:
    """A line there and back; the connection's TLS."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        writer.write(b"hello\n")
        if await reader.readline() != b"hello\n":
            raise ConnectionResetError
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return tls
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_go_on(
    loop: Callable[[], asyncio.AbstractEventLoop], version: ssl.TLSVersion, tmp_path: Path
) -> None:
    chain, key = pair(tmp_path)
    theirs = shows(chain, key)
    theirs.minimum_version = theirs.maximum_version = version

    async def main() -> None:
        context = client_context(chain.read_bytes())
        async with server(theirs) as port:
            assert [(await talk(port, context)).session_reused for _ in range(4)] == [False, True, True, True]
            burst = await asyncio.gather(*(talk(port, context) for _ in range(8)))
            assert all(each.session_reused for each in burst)
        # Of another server, which knows nothing of the sessions: a whole handshake.
        async with server(shows(chain, key)) as port:
            assert not (await talk(port, context)).session_reused

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_failed_handshake_leaves_no_session(tmp_path: Path) -> None:
    good, bad = pair(tmp_path, "good"), pair(tmp_path, "bad")
    context = client_context(good[0].read_bytes())
    async with server(shows(*bad)) as port:
        for _ in range(3):
            with pytest.raises(ssl.SSLCertVerificationError):
                await talk(port, context)
    async with server(shows(*good)) as port:
        await talk(port, context)
        assert (await talk(port, context)).session_reused


@pytest.mark.parametrize(
    ("host", "ends", "known", "reason"),
    [
        ("localhost", timedelta(hours=-1), True, "its certificate is refused: certificate has expired"),
        ("other.test", timedelta(1), True, "its certificate is refused: Hostname mismatch, certificate is not valid for"),
        ("localhost", timedelta(1), False, "its certificate is refused: self-signed certificate"),
    ],
)  # fmt: skip
async def test_why_a_certificate_is_refused(
    host: str, ends: timedelta, known: bool, reason: str, tmp_path: Path
) -> None:
    chain, key = pair(tmp_path, host=host, ends=ends)
    async with server(shows(chain, key)) as port:
        with pytest.raises(ssl.SSLError) as caught:
            await talk(port, client_context(chain.read_bytes() if known else b""))
    assert explain(caught.value).replace("self signed", "self-signed").startswith(reason)


async def test_a_server_without_tls_is_told() -> None:
    async with server(None) as port:
        with pytest.raises(ssl.SSLError) as caught:
            await talk(port, client_context())
        assert explain(caught.value) == "no TLS is spoken there"


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    demanding = shows(chain, key)
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(chain)
    async with server(demanding) as port:
        with pytest.raises(OSError):  # noqa: PT011  # Python's server says no more
            await talk(port, client_context(chain.read_bytes()))
        assert await talk(
            port, client_context(chain.read_bytes(), key.read_bytes() + b"\n" + chain.read_bytes())
        )


def test_words_of_alerts_and_of_nothing() -> None:
    error = ssl.SSLError(1, "x")
    error.reason = "TLSV1_ALERT_UNKNOWN_CA"
    assert explain(error) == "it refused: unknown ca"
    error.reason = "SOMETHING_ELSE"
    assert explain(error) == "something else"
    assert explain(ssl.SSLEOFError(8, "x")) == "the connection was closed in the handshake"


def test_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    chain, key = pair(tmp_path, passphrase=b"secret")
    with pytest.raises(ssl.SSLError):
        client_context(identity=chain.read_bytes() + key.read_bytes())
