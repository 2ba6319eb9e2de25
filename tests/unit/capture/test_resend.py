"""What of a captured request is sent again: never a credential, whoever captured it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from kernel.capture import resend
from kernel.capture.reading import Entry
from kernel.capture.resend import Outgoing, Resender

MARK = "[redacted:0123456789abcdef]"
SECRET = "hunter2-0123456789"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
TOKEN = (b"authorization", b"Bearer given")


def entry(
    method: str = "GET",
    url: str = "http://old.example/a%20b?x=1",
    headers: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    status: int = 200,
    mime: str = "application/json",
    own: bool = True,
    **more: Any,
) -> Entry:
    document = {
        "request": {
            "method": method,
            "url": url,
            "headers": [{"name": name, "value": value} for name, value in (headers or {}).items()],
            "postData": body,
            "bodySize": 0 if body is None else 1,
        },
        "response": {"status": status, "headers": [], "content": {"mimeType": mime}},
        **more,
    }
    return msgspec.convert(document | ({"_request_id": "r"} if own else {}), Entry)


def sent(found: Entry, *, unsafe: bool = True, **tokens: tuple[bytes, bytes]) -> Outgoing:
    credentials = {(tenant, resend.TOKEN): token for tenant, token in (tokens or {"": TOKEN}).items()}
    request = Resender(credentials, unsafe=unsafe).request(found)
    assert isinstance(request, Outgoing), request
    return request


def left_out(found: Entry, *, unsafe: bool = True) -> str:
    request = Resender({}, unsafe=unsafe).request(found)
    assert isinstance(request, str)
    return request


def test_a_request_is_sent_as_it_was_but_for_its_connection() -> None:
    headers = {
        "Host": "old.example",
        "Accept": "*/*",
        "X-Tenant-ID": "t",
        "X-Forwarded-For": "192.0.2.1",
        "Via": "1.1 x",
        "X-Request-ID": "old",
        "X-User-Role": "owner",
        "traceparent": "00-1-2-01",
        "Connection": "keep-alive",
        "Content-Length": "0",
        ":authority": "old.example",
        "Bad": "a\r\nb",
        "Accept-Encoding": "gzip, br",
    }
    request = sent(entry(headers=headers))
    assert request.method == "GET"
    assert request.target == b"/a%20b?x=1"
    assert set(request.headers) == {
        (b"accept", b"*/*"),
        (b"x-tenant-id", b"t"),
        (b"accept-encoding", b"gzip"),
        (b"x-replayed", b"1"),
    }


@pytest.mark.parametrize("own", [True, False], ids=["capture", "browser"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", f"Bearer {SECRET}"),
        ("authorization", f"Bearer {MARK}"),
        ("Cookie", f"a=b; sid={SECRET}"),
        ("X-API-Key", SECRET),
        ("X-Refresh-Token", SECRET),
        ("X-Custom", f"Bearer {SECRET}"),
        ("X-Custom", JWT),
        ("X-Custom", MARK),
        ("Referer", f"https://h/?token={SECRET}"),
        ("Proxy-Authorization", f"Basic {SECRET}"),
        ("Sec-WebSocket-Protocol", f"bearer, {SECRET}"),
        ("X-CSRF-Token", SECRET),
    ],
)
def test_no_credential_of_a_capture_is_sent(name: str, value: str, own: bool) -> None:
    request = sent(entry(headers={name: value, "accept": "x"}, own=own))
    raw = request.target + b"".join(b"%b: %b" % pair for pair in request.headers)
    assert SECRET.encode() not in raw
    assert JWT.encode() not in raw
    assert b"redacted" not in raw
    assert (b"accept", b"x") in request.headers


def test_who_asks_is_said_by_tenant_and_only_where_somebody_had_a_credential() -> None:
    bearer = {"authorization": f"Bearer {MARK}"}
    a, b = (b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")
    assert a in sent(entry(headers=bearer, _tenant="t"), t=a, u=b).headers
    assert a not in sent(entry(headers=bearer, _tenant="other"), t=a, u=b).headers
    assert TOKEN in sent(entry(headers=bearer)).headers
    assert TOKEN in sent(entry(headers={"cookie": f"a={MARK}"})).headers
    assert TOKEN in sent(entry(url=f"http://h/?token={MARK}")).headers
    assert TOKEN not in sent(entry()).headers
    assert TOKEN in sent(entry(own=False)).headers


def test_a_key_stands_for_a_key_and_a_token_for_a_token_where_both_are_given() -> None:
    key, token = (b"x-api-key", b"k"), (b"authorization", b"Bearer t")
    both = Resender({("", resend.KEY): key, ("t", resend.TOKEN): token}, unsafe=False)

    def said(_tenant: str = "", **headers: str) -> set[tuple[bytes, bytes]]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = both.request(entry(headers=names, _tenant=_tenant))
        assert isinstance(request, Outgoing)
        return {key, token} & set(request.headers)

    assert said(x_api_key=MARK) == {key}
    assert said(x_api_key=MARK, _tenant="t") == {token}  # the tenant's own comes first
    assert said(authorization=MARK, _tenant="t") == {token}
    assert said(authorization=MARK, x_api_key=MARK) == {key}  # nothing else is given for it
    assert said() == set()


def test_secrets_of_a_query_are_left_out_of_it() -> None:
    url = f"http://h/p?a=1&sig={SECRET}&b=%2F&X-Amz-Signature={MARK}&c={JWT}&d"
    assert sent(entry(url=url)).target == b"/p?a=1&b=%2F&d"
    assert sent(entry(url="http://h")).target == b"/"


def test_an_idempotency_key_is_another_one_but_shared_by_who_shared_it() -> None:
    resender = Resender({}, unsafe=True)
    found = [
        resender.request(entry("POST", headers={"Idempotency-Key": key})) for key in (MARK, MARK, SECRET)
    ]
    keys = [dict(each.headers)[b"idempotency-key"] for each in found if isinstance(each, Outgoing)]
    assert keys[0] == keys[1] != keys[2]
    assert all(key.startswith(b"replay-") for key in keys)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            entry("POST", body={"mimeType": "application/json", "text": f'{{"password": "{MARK}"}}'}),
            resend.BODY_SECRET,
        ),
        (
            entry("POST", body={"mimeType": "application/json", "text": f'{{"password": "{SECRET}"}}'}),
            resend.BODY_SECRET,
        ),
        (entry("POST", body={"mimeType": "multipart/form-data", "text": "x"}), resend.BODY_SECRET),
        (
            entry("POST", body={"mimeType": "text/plain", "text": "x", "_truncated": True}),
            resend.BODY_MISSING,
        ),
        (entry("POST", body={"mimeType": "text/plain", "text": "", "_omitted": "y"}), resend.BODY_MISSING),
        (entry("POST", body={"mimeType": "multipart/form-data", "params": []}), resend.BODY_MISSING),
        (entry("POST", body={"mimeType": "image/png", "text": "%%", "_encoding": "base64"}), resend.STRANGE),
        (entry(url=f"http://h/{JWT}"), resend.SECRET_PATH),
        (entry(url=f"http://h/{MARK}"), resend.SECRET_PATH),
        (entry(url="wss://h/x"), resend.SOCKET),
        (entry(status=101), resend.SOCKET),
        (entry(mime="text/event-stream; charset=utf-8"), resend.SOCKET),
        (entry(status=0), resend.UNANSWERED),
        (entry(url="data:,x"), resend.STRANGE),
        (entry(url="nonsense"), resend.STRANGE),
        (entry("GET /\r\n"), resend.STRANGE),
        (entry("CONNECT"), resend.STRANGE),
    ],
)
def test_what_cannot_be_sent_as_it_was_is_left_out(found: Entry, reason: str) -> None:
    assert left_out(found) == reason


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_changes_something_is_sent_only_when_that_is_said(method: str) -> None:
    assert left_out(entry(method), unsafe=False) == resend.UNSAFE
    assert sent(entry(method)).body == b""


def test_bodies() -> None:
    assert sent(entry("POST", body={"mimeType": "text/plain", "text": "año"})).body == "año".encode()
    packed = {"mimeType": "image/png", "text": b64encode(b"\x89\0\xff").decode(), "_encoding": "base64"}
    assert sent(entry("PUT", body=packed)).body == b"\x89\0\xff"
