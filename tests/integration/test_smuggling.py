"""Raw bytes at the front door: the service sees one well-formed request or none."""

from __future__ import annotations

import pytest

from tests.support.raw import parse_replies, request, send_raw
from tests.support.stack import Stack
from tests.support.tokens import access_token

TARGET = b"/api/v1/inventory/items"


def head(*lines: bytes, method: bytes = b"POST", auth: bool = True) -> bytes:
    """A request head with a good token and exactly `lines` beside it."""
    first = [b"%b %b HTTP/1.1" % (method, TARGET)]
    if auth:
        first.append(b"Authorization: Bearer " + access_token())
    return b"\r\n".join([*first, *lines]) + b"\r\n\r\n"


HOST = b"Host: gateway.test"
CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"GET /api/v1/inventory/smuggled HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer x\r\n\r\n"

# Ambiguous framing: each of these has been read in two ways by some pair of servers.
AMBIGUOUS = {
    "cl-te": head(HOST, b"Content-Length: 6", CHUNKED) + b"0\r\n\r\nX",
    "te-cl": head(HOST, CHUNKED, b"Content-Length: 4") + b"5c\r\n" + SMUGGLED[:20] + b"\r\n0\r\n\r\n",
    "te-te": head(HOST, CHUNKED, b"Transfer-Encoding: identity") + b"0\r\n\r\n" + SMUGGLED,
    "te-obfuscated-space": head(HOST, b"Transfer-Encoding : chunked", b"Content-Length: 3")
    + b"abc"
    + SMUGGLED,
    "te-obfuscated-tab": head(HOST, b"Transfer-Encoding:\tchunked", b"Content-Length: 3")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "te-xchunked": head(HOST, b"Transfer-Encoding: xchunked", b"Content-Length: 3") + b"abc" + SMUGGLED,
    "te-list": head(HOST, b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + SMUGGLED,
    "te-vertical-tab": head(HOST, b"Transfer-Encoding: \x0bchunked", b"Content-Length: 3")
    + b"abc"
    + SMUGGLED,
    "two-lengths": head(HOST, b"Content-Length: 3", b"Content-Length: 5") + b"abcde",
    "length-list": head(HOST, b"Content-Length: 3, 5") + b"abcde",
    "length-plus": head(HOST, b"Content-Length: +3") + b"abc" + SMUGGLED,
    "length-minus": head(HOST, b"Content-Length: -3") + b"abc",
    "length-hex": head(HOST, b"Content-Length: 0x3") + b"abc" + SMUGGLED,
    "length-space": head(HOST, b"Content-Length : 3") + b"abc" + SMUGGLED,
    "length-huge": head(HOST, b"Content-Length: 99999999999999999999999") + b"abc",
    "length-zeros": head(HOST, b"Content-Length: 00000000000000000000003") + b"abc" + SMUGGLED,
    "te-gzip-chunked": head(HOST, b"Transfer-Encoding: gzip, chunked") + b"3\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "te-identity-chunked": head(HOST, b"Transfer-Encoding: identity, chunked") + b"0\r\n\r\n" + SMUGGLED,
    "te-chunked-twice": head(HOST, b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n" + SMUGGLED,
    "te-two-lines": head(HOST, CHUNKED, CHUNKED) + b"0\r\n\r\n" + SMUGGLED,
    "te-cl-gzip": head(HOST, b"Content-Length: 5", b"Transfer-Encoding: gzip, chunked")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "te-http-10": head(HOST, CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n" + SMUGGLED,
    "chunk-size-blank-before": head(HOST, CHUNKED) + b" 3\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-size-underscore": head(HOST, CHUNKED) + b"0_3\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-size-missing": head(HOST, CHUNKED) + b";x\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-lf-after-data": head(HOST, CHUNKED) + b"3\r\nabc\n0\r\n\r\n" + SMUGGLED,
    "chunk-extension-cr": head(HOST, CHUNKED) + b"3;a\rX\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-second-malformed": head(HOST, CHUNKED) + b"3\r\nabc\r\nZ\r\n" + SMUGGLED,
    "chunk-trailer-malformed": head(HOST, CHUNKED) + b"3\r\nabc\r\n0\r\n" + SMUGGLED,
    "chunk-trailer-folded": head(HOST, CHUNKED) + b"3\r\nabc\r\n0\r\nX: 1\r\n y\r\n\r\n" + SMUGGLED,
    "length-empty": head(HOST, b"Content-Length:") + b"abc",
    "chunk-bare-lf": head(HOST, CHUNKED) + b"3\nabc\n0\n\n" + SMUGGLED,
    "chunk-extension-bare-lf": head(HOST, CHUNKED) + b"3;x\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-size-huge": head(HOST, CHUNKED) + b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-size-sign": head(HOST, CHUNKED) + b"+3\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-size-hex-prefix": head(HOST, CHUNKED) + b"0x3\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk-no-crlf": head(HOST, CHUNKED) + b"3\r\nabcX0\r\n\r\n" + SMUGGLED,
    "empty-header-name": head(HOST, b": nameless", b"Content-Length: 3") + b"abc" + SMUGGLED,
    "space-in-name": head(HOST, b"X Y: 1", b"Content-Length: 3") + b"abc" + SMUGGLED,
    "folded-line": head(HOST, b"X-A: 1\r\n folded", b"Content-Length: 3") + b"abc",
    "bare-cr": head(HOST, b"X-A: 1\rX-B: 2", b"Content-Length: 3") + b"abc",
    "bare-lf-line": head(HOST, b"X-A: 1\nX-User-Id: root", b"Content-Length: 3") + b"abc",
    "nul-in-value": head(HOST, b"X-A: a\x00b", b"Content-Length: 3") + b"abc",
    "no-host": head(b"Content-Length: 3") + b"abc",
    "two-hosts": head(HOST, b"Host: evil.test", b"Content-Length: 3") + b"abc",
    "host-list": head(b"Host: a.test, b.test", b"Content-Length: 3") + b"abc",
    "host-userinfo": head(b"Host: a@b.test", b"Content-Length: 3") + b"abc",
    "method-bang": head(HOST, method=b"!"),
    "method-connect": head(HOST, method=b"CONNECT"),
    "method-lower": head(HOST, method=b"get"),
    "method-trace": head(HOST, method=b"TRACE"),
    "version-09": b"GET " + TARGET + b"\r\n\r\n",
    "version-2": b"GET " + TARGET + b" HTTP/2.0\r\nHost: a\r\n\r\n",
    "options-star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "upgrade-h2c": head(
        HOST, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_the_service_sees_one_request_or_none(stack: Stack, name: str) -> None:
    replies = parse_replies(send_raw(stack.port, AMBIGUOUS[name], timeout=2.0))
    assert stack.upstream.errors == [], "bytes reached the service that are no HTTP"
    assert len(stack.upstream.requests) <= 1
    for seen in stack.upstream.requests:
        assert b"smuggled" not in seen.target
        assert b"smuggled" not in seen.body
        names = [header.lower() for header, _ in seen.headers]
        assert not (b"content-length" in names and b"transfer-encoding" in names)
        assert names.count(b"content-length") <= 1
        assert names.count(b"host") == 1
    assert all(reply.status != 101 for reply in replies)


@pytest.mark.parametrize(
    "name",
    [
        "two-lengths", "length-list", "length-plus", "length-minus", "length-hex", "length-space", "length-huge",
        "empty-header-name", "space-in-name", "folded-line", "nul-in-value", "no-host", "two-hosts", "host-list",
        "host-userinfo", "options-star", "length-zeros", "te-gzip-chunked", "te-identity-chunked", "te-chunked-twice",
        "te-two-lines", "te-cl-gzip", "te-http-10",
    ],
)  # fmt: skip
def test_malformed_requests_never_reach_the_service(stack: Stack, name: str) -> None:
    replies = parse_replies(send_raw(stack.port, AMBIGUOUS[name], timeout=2.0))
    assert stack.upstream.requests == []
    assert replies
    assert all(400 <= reply.status < 500 for reply in replies)


@pytest.mark.parametrize(
    "name", sorted(name for name in AMBIGUOUS if name.startswith("chunk-") and "huge" not in name)
)
def test_a_malformed_chunk_is_the_clients_fault(stack: Stack, name: str) -> None:
    replies = parse_replies(send_raw(stack.port, AMBIGUOUS[name], timeout=2.0))
    assert [reply.status for reply in replies] == [400]
    assert b'"bad-request"' in replies[0].body
    assert replies[0].header("x-request-id")
    assert stack.upstream.requests == []
    assert stack.ask().status == 200


@pytest.mark.parametrize("name", ["method-bang", "method-connect", "method-lower", "method-trace"])
def test_methods_off_the_list_never_reach_the_service(stack: Stack, name: str) -> None:
    replies = parse_replies(send_raw(stack.port, AMBIGUOUS[name], timeout=2.0))
    assert stack.upstream.requests == []
    assert all(reply.status in {400, 405} for reply in replies)


def test_an_absolute_target_is_routed_by_its_path_only(stack: Stack) -> None:
    data = request(
        target=b"http://evil.test/api/v1/inventory/items", headers=[(b"Authorization", b"Bearer x")]
    )
    replies = parse_replies(send_raw(stack.port, data))
    assert stack.upstream.requests == []
    assert replies[0].status in {400, 401}


def test_pipelined_requests_get_their_answers_in_order(stack: Stack) -> None:
    token = access_token()
    one = b"GET /api/v1/inventory/%d HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %b\r\n%b\r\n"
    data = b"".join(one % (n, token, b"Connection: close\r\n" if n == 2 else b"") for n in range(3))
    replies = parse_replies(send_raw(stack.port, data))
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [b'"/api/v1/inventory/%d"' % n in reply.body for n, reply in enumerate(replies)] == [
        True,
        True,
        True,
    ]


def test_a_body_shorter_than_announced_reaches_the_service_as_no_whole_request(stack: Stack) -> None:
    send_raw(stack.port, head(HOST, b"Content-Length: 100") + b"only this", timeout=1.0)
    assert stack.upstream.requests == []
    # The connection that carried half of it must not carry anybody else's request.
    assert stack.ask("POST", body=b"whole").status == 200
    assert stack.seen().body == b"whole"


def test_a_subprotocol_byte_that_once_aborted_workers(stack: Stack) -> None:
    data = (
        b"GET /api/v1/training/ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: \x80\r\n\r\n"
    )
    send_raw(stack.port, data, timeout=1.0)
    assert stack.ask().status == 200
