"""The examples of CONTRIBUTING.md do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from kernel.config import Settings
from kernel.http.problems import Problem
from kernel.identity.access import decide
from kernel.identity.claims import Claims
from kernel.identity.identity import TenantContext, access_identity
from kernel.routing.catalog import RouteRow
from tests.support.exchanges import exchange

TEXT = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()


def example(heading: str) -> Any:
    """The first module of a section, run."""
    section = TEXT.split(f"## {heading}\n", 1)[1]
    source = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    module = ModuleType("example")
    exec(compile(source, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


def test_the_stage_refuses_what_it_says() -> None:
    stage = example("Add a stage")
    row = RouteRow(pattern="/x", service="orders")
    assert stage.NAME == "maintenance"
    assert stage.describe(Settings(), row)
    assert stage.make(cast("Any", SimpleNamespace()), RouteRow(pattern="/x")) is None
    run = stage.make(cast("Any", SimpleNamespace()), row)
    x = exchange()
    assert run(x) is None
    x.captured[b"x-maintenance"] = b"1"
    assert isinstance(run(x), Problem)


async def test_the_endpoint_answers_with_the_caller() -> None:
    endpoint = example("Add an endpoint")
    assert endpoint.OPERATIONS.keys() == {"GET whoami"}
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    x = exchange()
    x.send = send
    claims = Claims(exp=2, iat=1, iss="i", jti="j", tenant_id="t", tenant_role="baker")
    x.identity = access_identity(claims, "u", "key")
    context = decide(x.identity, "t")
    assert isinstance(context, TenantContext)
    x.grant = context
    row = RouteRow(pattern="/api/v1/whoami", handler="whoami")
    await endpoint.FACTORIES["whoami"](cast("Any", SimpleNamespace()), row)(x)
    assert sent[0]["status"] == 200
    assert sent[1]["body"] == b'{"user_id":"u","role":"baker"}'
