"""The audit trail of a running gateway, asked for at once after the events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token


def audit(gateway: GatewayProcess, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kernel", "audit", *arguments, "--file", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def test_export_and_erase_see_what_workers_have_in_memory(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    gateway = gateway_factory(
        stack_env(upstream, session_store) | {"AUDIT_LOG_FILE": str(path), "WORKERS": "2"}
    )
    stack = Stack(gateway, upstream)
    target = b"/api/v1/tenants/6f1c9f0e-0000-4000-8000-00000000dead/inventory/x"
    token = access_token(user_id="forget-me")
    for _ in range(6):  # connections go to either worker
        assert stack.ask("GET", target, token=token).status == 403
    told = audit(gateway, path, "export", "--user", "forget-me").stdout
    exported = [json.loads(line) for line in told.splitlines()]
    assert sum(each.get("count", 1) for each in exported) == 6
    assert stack.ask("GET", target, token=token).status == 403
    audit(gateway, path, "erase", "--user", "forget-me", "--yes")
    gateway.stop()
    assert [each.name for each in (tmp_path / "audit.jsonl.writers").iterdir()] == ["flush"]
    assert b"forget-me" not in path.read_bytes()
    assert path.read_bytes().count(b'"user_id":"erased-') == len(exported) + 1
    assert audit(gateway, path, "verify").stdout.startswith("The chain holds")


def test_every_request_is_an_event_when_all_are_asked_for(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    settings = {"AUDIT_LOG_FILE": str(path), "AUDIT_ALL": "true", "WORKERS": "2", "LOG_LEVEL": "ERROR"}
    gateway = gateway_factory(stack_env(upstream, session_store) | settings)
    stack = Stack(gateway, upstream)
    token = access_token(user_id="watched")
    ids = {stack.ask("GET", b"/api/v1/inventory/x", token=token).header("x-request-id") for _ in range(40)}
    refused = stack.ask("GET", b"/api/v1/nowhere", token=token)
    told = [
        json.loads(line) for line in audit(gateway, path, "export", "--user", "watched").stdout.splitlines()
    ]
    requests = {line["request_id"]: line for line in told if line["kind"] == "request"}
    assert ids <= requests.keys()  # equal ones are not folded, whatever the log's level
    assert {requests[each or ""]["status"] for each in ids} == {200}
    gateway.stop()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    missing = [line for line in lines if line.get("request_id") == refused.header("x-request-id")]
    assert [(line["kind"], line["status"], line["path"]) for line in missing] == [
        ("request", 404, "/api/v1/nowhere")
    ]
    assert audit(gateway, path, "verify").stdout.startswith("The chain holds")
