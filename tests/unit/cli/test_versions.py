"""What the command line tells of versions and of routes that rewrite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.cli import main
from kernel.cli.probe import _targets
from kernel.config import load

CONFIG = """
[services.pos]
strip_prefix = "/api/v1"
set_headers = {x-colour = "blue"}
remove_headers = ["x-debug"]
response_headers = {server = "", cache-control = "no-store"}
[services.orders]
health = "/well"
[services.orders.versions.v1]
deprecated = 2026-06-01
[services.orders.versions.v2]
url = ["http://one", "http://two"]
[services.tenant.versions.v2]
prefix = "/second"
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_CONFIG", str(path))
    monkeypatch.delenv("COLUMNS", raising=False)  # nothing wraps
    return path


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(list(argv)) == code
    return capsys.readouterr().out


def explained(capsys: pytest.CaptureFixture[str], path: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(told(capsys, "explain", "GET", path, "--json", code=code))
    return found


def test_explain_tells_who_answers_a_version_and_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    second = explained(capsys, "/api/v2/orders/7")
    assert (second["answered_by"], second["version"]) == ("orders.v2", "v2")
    assert second["upstream"] == ["http://one", "http://two"]
    assert "lifecycle" not in second["stages"]
    first = explained(capsys, "/api/v1/orders/7")
    assert first["version"] == "v1: deprecated Mon, 01 Jun 2026 00:00:00 GMT"
    assert "deprecated" in first["stages"]["lifecycle"]
    assert explained(capsys, "/api/v2/tenants/7/settings")["sent_as"] == "/second/tenants/{tenant_id}/**"
    rewritten = explained(capsys, "/api/v1/pos/terminals")
    assert rewritten["sent_as"] == "/pos/**"
    assert (rewritten["sets"], rewritten["removes"]) == (["x-colour: blue"], ["x-debug"])
    assert rewritten["answers_with"] == ["no server", "cache-control: no-store"]


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/api/v3/orders", "404 version-unknown: orders has v1 and v2, not v3."),
        ("/api/v2/sales", "404 version-unknown: sales has v1, not v2."),
        # A row of its own, since the tenant service has the rest of what is there.
        ("/api/v2/tenants/7/sales/x", "404 version-unknown: sales has v1, not v2."),
        ("/api/v2/nothing", "404 route-unknown: no pattern matches. `gateway routes` prints them all."),
    ],
)
def test_explain_tells_of_versions_that_are_not_there(
    capsys: pytest.CaptureFixture[str], path: str, refused: str
) -> None:
    assert explained(capsys, path, code=1)["refused"] == refused


def test_routes_and_check_tell_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in told(capsys, "routes").splitlines()]
    assert "any /api/v2/orders/** orders.v2 token" in lines
    assert "any /api/v1/orders/** orders token deprecated" in lines
    rewrites = "sent as /pos/**, sets x-colour, removes x-debug, answers with other server cache-control"
    assert f"any /api/v1/pos/** pos token {rewrites}" in lines
    assert "orders: v1 (deprecated), v2" in told(capsys, "check")


def test_a_probe_reaches_each_replica_of_a_version_by_its_services_health_path(config: Path) -> None:
    settings = load({"GATEWAY_CONFIG": str(config), "ORDERS_SERVICE_URL_V2": "http://three"})
    targets = {(target.name, target.address) for target in _targets(settings, 1.0)}
    assert ("orders.v2", "http://three") in targets
    assert ("orders", "http://orders-service:8000") in targets
    assert not [name for name, _ in targets if name == "tenant.v2"]
