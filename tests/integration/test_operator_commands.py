"""What an operator types, and what clients of a running gateway see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from kernel.cli import main
from kernel.primitives.api_key import new_id, new_key
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.store import RawServer
from tests.support.tokens import TENANT, access_token

PATH = f"/api/v1/tenants/{TENANT}/inventory/items".encode()


@pytest.fixture
def running(gateway_factory: GatewayFactory, upstream: Recorder, store_server: EmbeddedStore) -> Stack:
    gateway = gateway_factory(
        stack_env(upstream, store_server) | {"RATE_LIMIT_REQUESTS": "40", "WORKERS": "2"}
    )
    return Stack(gateway, upstream)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, store_server: EmbeddedStore) -> None:
    monkeypatch.setenv("REDIS_URL", store_server.url)
    monkeypatch.setenv("COLUMNS", "80")


def status(stack: Stack, method: str, token: bytes) -> int:
    return stack.ask(method, PATH, token=token).status


def until(stack: Stack, method: str, token: bytes, wanted: int) -> None:
    """Both workers answer so: four connections in a row."""
    poll(lambda: all(status(stack, method, token) == wanted for _ in range(4)) or None)


def test_what_is_locked_cannot_be_written_until_it_is_unlocked(
    running: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    token = access_token()
    assert status(running, "POST", token) == 200
    assert main(["lock", TENANT.upper(), "--reason", "Inventory day", "--seconds", "600"]) == 0
    assert f"tenant {TENANT} is read-only for 600 s" in capsys.readouterr().out
    until(running, "POST", token, 403)
    assert status(running, "GET", token) == 200
    assert main(["lock", "--platform", "--reason", "Maintenance"]) == 0
    assert main(["unlock", TENANT]) == 0
    until(running, "POST", token, 403)
    assert main(["locks", "--json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told[told.index("[") :]) == [
        {"tenant_id": None, "reason": "Maintenance", "seconds_left": None}
    ]
    assert main(["unlock", "--platform"]) == 0
    assert main(["unlock", "--platform"]) == 0
    assert "was not locked" in capsys.readouterr().out
    until(running, "POST", token, 200)
    assert main(["locks"]) == 0
    assert "nothing is locked" in capsys.readouterr().out


def test_locks_fit_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    main(["lock", TENANT, "--reason", "word " * 39 + "end"])
    main(["lock", "--platform", "--reason", "Maintenance", "--seconds", "60"])
    capsys.readouterr()
    assert main(["locks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "2 locks"
    assert any("60 s from now" in line or "59 s from now" in line for line in lines)


@pytest.mark.parametrize("named", [True, False], ids=["with a jti", "without"])
def test_a_revoked_token_is_refused_everywhere(
    running: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    token = access_token(jti="by-hand" if named else None)
    assert status(running, "GET", token) == 200
    done = subprocess.run(
        [sys.executable, "-m", "kernel", "revoke"],
        input=f"Bearer {token.decode()}\n",
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=60,
        check=True,
    )
    assert "is refused, for " in done.stdout
    assert token.decode() not in done.stdout + done.stderr
    until(running, "GET", token, 401)
    assert status(running, "GET", access_token(jti="another")) == 200


def test_a_jti_alone_will_do(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    token = access_token(jti="only-its-name")
    assert status(running, "GET", token) == 200
    assert main(["revoke", "--jti", "only-its-name", "--days", "1"]) == 0
    assert "for 86400 s" in capsys.readouterr().out
    until(running, "GET", token, 401)


def test_what_is_no_token_or_has_expired_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revoke", "no.token.here"]) == 1
    assert "no token the gateway would accept" in capsys.readouterr().err
    assert main(["revoke", new_key(new_id())]) == 1
    assert capsys.readouterr().err == "gateway: that is an API key: gateway keys revoke takes it\n"
    assert main(["revoke", access_token(exp=1).decode()]) == 0
    assert "refused already" in capsys.readouterr().out


def test_limits_are_shown_and_filled(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    token = access_token(user_id="busy")
    for _ in range(60):
        running.ask("GET", PATH, token=token)
    assert status(running, "GET", token) == 429
    assert main(["limits", "show", "--user", "busy", "--json"]) == 0
    (bucket,) = json.loads(capsys.readouterr().out)
    assert (bucket["name"], bucket["requests"], bucket["window"]) == ("user:busy", 40, 60.0)
    assert bucket["left"] <= 2
    assert 50 <= bucket["full_in"] <= 61
    assert main(["limits", "show"]) == 0
    told = capsys.readouterr().out
    assert "user:busy" in told
    assert max(map(len, told.splitlines())) <= 80
    assert main(["limits", "reset", "--user", "bus"]) == 0  # not whoever begins like that
    assert "all were full" in capsys.readouterr().out
    assert main(["limits", "reset", "--user", "busy"]) == 0
    assert "1 bucket filled" in capsys.readouterr().out
    poll(lambda: status(running, "GET", token) == 200 or None)


def test_addresses_are_named_as_people_write_them(
    redis_cli: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ip:203.0.113.7", "login:login:ip:203.0.113.7", "ip:203.0.113.70", "ip:2001:db8::/64"):
        redis_cli.hset(f"ratelimit:{name}:10/60", mapping={"tokens": "0", "stamp": "0"})
    assert main(["limits", "reset", "--address", "203.0.113.7"]) == 0
    assert "2 buckets filled" in capsys.readouterr().out
    assert main(["limits", "reset", "--address", "2001:db8::1"]) == 0
    assert "1 bucket filled" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["limits", "reset", "--address", "somewhere"])


def test_what_was_done_by_hand_is_in_the_audit_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    monkeypatch.setenv("AUDIT_LOG_FILE", str(path))
    assert main(["lock", TENANT, "--reason", "Moving"]) == 0
    assert main(["unlock", TENANT]) == 0
    assert main(["revoke", "--jti", "j-1"]) == 0
    assert main(["limits", "reset", "--user", "u-1"]) == 0
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(each["command"], each["subject"]) for each in events] == [
        ("lock", f"tenant {TENANT}"),
        ("unlock", f"tenant {TENANT}"),
        ("revoke", "j-1"),
        ("limits reset", "user:u-1"),
    ]
    assert all(each["operator"] and each["kind"] == "admin" for each in events)
    assert events[0]["reason"] == "Moving"
    assert main(["audit", "verify", "--file", str(path)]) == 0


def test_a_cluster_is_looked_through_whole(
    cluster: list[RawServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis+cluster://127.0.0.1:{cluster[0].port}")
    tenants = [f"{TENANT[:-2]}{number:02x}" for number in range(8)]
    for tenant in tenants:
        assert main(["lock", tenant, "--reason", "Moving"]) == 0
    capsys.readouterr()
    assert main(["locks", "--json"]) == 0
    assert [lock["tenant_id"] for lock in json.loads(capsys.readouterr().out)] == tenants


def test_a_store_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main(["locks"]) == 1
    assert "the store does not do it" in capsys.readouterr().err
    monkeypatch.delenv("REDIS_URL")
    assert main(["locks"]) == 1
    assert "REDIS_URL is not set" in capsys.readouterr().err
