"""What a request and its response weighed, in the access log and in the metrics, whichever way it went."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.stack import Stack


def record(stack: Stack, request_id: str) -> dict[str, Any]:
    """The request's line in the access log."""

    def line() -> dict[str, Any] | None:
        for text in stack.gateway.log().splitlines():
            if request_id in text and '"event":"request"' in text:
                return dict(json.loads(text))
        return None

    found = poll(line)
    assert found is not None
    return found


def metric(stack: Stack, name: str) -> float:
    text = ask(stack.port, request("GET", b"/metrics", [])).body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", b""), ("POST", b"x" * 1000), ("POST", b"y" * 100_000)],
    ids=["lane", "small", "streamed"],
)
def test_the_sizes_of_a_request_and_its_answer_are_told_apart(stack: Stack, method: str, body: bytes) -> None:
    names = ("gateway_request_size_bytes_sum", "gateway_response_size_bytes_sum")
    before = [metric(stack, name) for name in names]
    scraped = [len(ask(stack.port, request("GET", b"/metrics", [])).body)]
    reply = stack.ask(method, body=body)
    assert reply.status == 200
    assert len(reply.body) != len(body)
    line = record(stack, reply.header("x-request-id") or "")
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(reply.body))
    received, sent = (metric(stack, name) - earlier for name, earlier in zip(names, before, strict=True))
    assert received == len(body)
    # The scrapes are answers, too, of a size that is not ours to know; a swap would have them without the request's.
    assert sent > len(reply.body) + scraped[0] / 2


def test_what_is_in_flight_comes_back_to_nothing(stack: Stack) -> None:
    for _ in range(5):
        assert stack.ask().status == 200
    assert stack.ask(target=b"/api/v1/nowhere").status == 404
    assert poll(lambda: metric(stack, "gateway_requests_in_flight") == 0)


def test_an_answer_has_all_of_the_gateways_headers_whichever_way_it_went(stack: Stack) -> None:
    # The first opens a connection, in a task; those after it find one, and take the lane.
    replies = [stack.ask(headers=[(b"Origin", b"https://app.example.com")]) for _ in range(5)]
    for name in (
        "x-request-id",
        "x-ratelimit-limit",
        "ratelimit",
        "x-content-type-options",
        "access-control-allow-origin",
    ):
        assert all(len(reply.all(name)) == 1 for reply in replies), name
