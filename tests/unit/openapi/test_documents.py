"""When the merged document is made, and when the last one is good enough."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from kernel.openapi import documents
from kernel.openapi.documents import Documents
from kernel.openapi.editions import Edition
from kernel.openapi.maker import Maker
from kernel.primitives.own_process import NotMade
from kernel.routing.platform import ROUTES, SERVICES
from kernel.upstream.client import Answer

OWN = b'{"openapi":"3.1.0","info":{},"paths":{}}'
ONE = b'{"openapi":"3.1.0","info":{"title":"One"},"paths":{}}'


class Services:
    """`body` is what each answers."""

    def __init__(self) -> None:
        self.body = ONE

    async def call(self, service: str, path: str) -> Answer:
        return Answer(200, self.body)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every merge; documents are old at once."""
    found: list[int] = []
    run = Maker.__call__

    def counted(self: Maker, own: bytes, given: Mapping[str, bytes | str]) -> tuple[bytes, bool]:
        found.append(len(given))
        return run(self, own, given)

    monkeypatch.setattr(Maker, "__call__", counted)
    monkeypatch.setattr(documents, "_FRESH_SECONDS", 0.0)
    return found


async def renewed(kept: Documents) -> documents.Document:
    await kept.get()
    await kept._flight.start("", kept._make)
    return await kept.get()


async def test_documents_that_have_not_changed_are_not_merged_again(made: list[int]) -> None:
    services = Services()
    kept = Documents(Edition(services=SERVICES[:2], rows=ROUTES), services.call, lambda: OWN)
    first = await kept.get()
    assert await renewed(kept) is first
    assert made == [2]
    services.body = ONE.replace(b"One", b"Two")
    assert (await renewed(kept)).etag != first.etag
    assert made == [2, 2]
    await kept.close()


async def test_a_merge_that_fails_leaves_the_gateways_own_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Maker, own: bytes, given: Mapping[str, bytes | str]) -> tuple[bytes, bool]:
        raise NotMade("it took longer than 30 s")

    monkeypatch.setattr(Maker, "__call__", fail)
    kept = Documents(Edition(services=SERVICES[:2], rows=ROUTES), Services().call, lambda: OWN)
    states = msgspec.json.decode((await kept.get()).body)["x-services"]
    assert [each["reason"] for each in states.values()] == ["merging failed: it took longer than 30 s"] * 2
    await kept.close()
