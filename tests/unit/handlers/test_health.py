"""What `/health` and `/metrics` put on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from handlers import health, metrics
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.scrape import Scraper


class Answer:
    """Stands for an exchange; keeps what a handler answers."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.scope = {"headers": list(headers)}
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status, self.headers, self.body = status, dict(headers), body


async def answer(handler: Any, *headers: tuple[bytes, bytes]) -> Answer:
    x = Answer(*headers)
    await handler(x)
    return x


async def test_health_answers_the_document_of_the_moment_and_is_not_cached() -> None:
    documents = iter([(200, b"{}"), (503, b"{}")])
    handler = health.make(lambda: next(documents))
    assert (await answer(handler)).status == 200
    x = await answer(handler)
    assert (x.status, x.body) == (503, b"{}")
    assert x.headers == {b"content-type": b"application/json", b"cache-control": b"no-store"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ((), b"text/plain; version=0.0.4; charset=utf-8"),
        (
            ((b"accept", b"application/openmetrics-text;version=1.0.0;q=0.5"),),
            b"application/openmetrics-text",
        ),
        (
            ((b"accept", b"text/html"), (b"accept", b"application/openmetrics-text")),
            b"application/openmetrics-text",
        ),
        (
            ((b"accept", b"application/openmetrics-text; version=evil; escaping=\xff"),),
            b"application/openmetrics-text",
        ),
        (((b"accept", b"text/plain; version=abc"),), b"text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_metrics_come_in_the_format_accepted(
    accept: tuple[tuple[bytes, bytes], ...], content_type: bytes
) -> None:
    made = Metrics()
    made.route("/a").observe("GET", 200, 0.01, 0, 0)
    x = await answer(metrics.make(Scraper(made)), *accept)
    assert x.status == 200
    assert x.headers[b"content-type"].startswith(content_type)
    assert x.headers[b"vary"] == b"Accept"
    assert b'gateway_requests_total{method="GET",path="/a",status_code="200"} 1.0' in x.body
