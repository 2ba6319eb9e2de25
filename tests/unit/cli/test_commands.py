"""`gateway explain`, `token` and `audit` as they are called, in this process."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest

from kernel.cli import main
from kernel.identity.pem import generate_pair
from kernel.telemetry.auditfile import AuditFile
from kernel.telemetry.writer import Writer
from tests.support.auth_service import KEY_SET, auth_service
from tests.support.tokens import access_payload, access_token, forge, service_token

SECRET = "a-secret-of-the-tests-with-more-than-32-bytes"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "JWT_PUBLIC_KEY",
        "JWT_SECRET_KEY",
        "JWT_JWKS_URL",
        "AUDIT_LOG_FILE",
        "ENVIRONMENT",
        "GATEWAY_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


# --- explain


def test_a_route_is_explained_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "get", "/api/v1/inventory/items?limit=3"]) == 0
    out = capsys.readouterr().out
    assert "/api/v1/inventory/**" in out
    assert "http://inventory-service:8000" in out
    assert out.index("cors") < out.index("limit") < out.index("authenticate") < out.index("tenancy")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_explanation_fits_the_terminal_and_loses_nothing(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["explain", "DELETE", "/api/v1/tenants/7"]
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(ask) == 0
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(ask) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert out.split() == whole.split()


def test_an_explanation_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "DELETE", "/api/v1/tenants/7", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["answered_by"] == "tenant"
    assert list(answer["stages"])[-1] == "critical"


@pytest.mark.parametrize(
    ("method", "path", "why"),
    [
        ("GET", "/nowhere", "404 route-unknown"),
        ("DELETE", "/health", "405 method-not-allowed"),
        ("GET", "/api/v1/../x", "400 bad-path"),
        ("GET", "/api/v1/orders/a%2Fb", "400 bad-path: The path has an encoded slash"),
        ("POST", "/api/v1/tenants/7/%73ubscription", "400 bad-path: The path is another route"),
    ],
)
def test_what_no_route_takes_is_explained_and_fails(
    capsys: pytest.CaptureFixture[str], method: str, path: str, why: str
) -> None:
    assert main(["explain", method, path]) == 1
    assert why in capsys.readouterr().out
    assert main(["explain", method, path, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refused"].startswith(why)


# --- token


def test_a_minted_service_token_is_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", SECRET)
    assert main(["token", "mint", "--service", "orders", "--tenant", "t-1"]) == 0
    token = capsys.readouterr().out.strip()
    feed(monkeypatch, f"Bearer {token}\n")
    assert main(["token", "inspect"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted")
    assert token not in out
    assert token.rpartition(".")[2] not in out
    assert main(["token", "inspect", "--json", token[:-4] + "AAAA"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["accepted"], answer["code"]) == (False, "token-signature")


def test_a_minted_user_token_is_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    private, public = generate_pair()
    (tmp_path / "private.pem").write_text(private)
    monkeypatch.setenv("JWT_PUBLIC_KEY", public)
    argv = ["token", "mint", "--user", "u-1", "--tenant", "t-1", "--tier", "starter", "--lifetime", "60"]
    assert main([*argv, "--key", "private.pem"]) == 0
    feed(monkeypatch, capsys.readouterr().out)
    assert main(["token", "inspect", "-"]) == 0
    assert "starter" in capsys.readouterr().out


def verdict(
    capsys: pytest.CaptureFixture[str], token: bytes
) -> tuple[int, object, dict[str, tuple[str, str]]]:
    """The exit code, what is said of acceptance, and verdict and note of each field."""
    code = main(["token", "inspect", "--json", token.decode()])
    answer = json.loads(capsys.readouterr().out)
    return code, answer["accepted"], {row["field"]: (row["verdict"], row["note"]) for row in answer["fields"]}


def test_what_the_auth_service_is_asked_about_is_unknown_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", SECRET)
    code, accepted, fields = verdict(capsys, access_token())
    assert (code, accepted) == (2, None)
    assert fields["key"] == ("unknown", "the auth service is asked about it")
    # What it says of itself condemns it whoever signed it, and a secret of ours has the last word.
    assert verdict(capsys, access_token(exp=1))[:2] == (1, False)
    assert verdict(capsys, access_token(iss="nobody"))[:2] == (1, False)
    assert verdict(capsys, service_token(secret="another secret of thirty-two bytes"))[:2] == (1, False)
    assert verdict(capsys, forge({"alg": "none"}, access_payload()))[:2] == (1, False)
    assert main(["token", "inspect", access_token().decode()]) == 2
    assert capsys.readouterr().out.startswith("unknown")


def test_key_sets_are_fetched_and_one_that_cannot_be_had_leaves_it_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with auth_service() as auth:
        auth.publish(here="rsa")
        monkeypatch.setenv("JWT_JWKS_URL", auth.key_set_url)
        assert verdict(capsys, access_token(kid="here"))[:2] == (0, True)
        assert verdict(capsys, access_token("rsa-2", kid="there"))[:2] == (1, False)
        broken: list[tuple[int, object, tuple[()]]] = [(500, {}, ()), (200, b"<html>", ())]
        for answer in broken:
            auth.answers[KEY_SET] = answer
            code, accepted, fields = verdict(capsys, access_token(kid="here"))
            assert (code, accepted) == (2, None)
            assert "could not be had" in fields["key"][1]
    assert verdict(capsys, access_token(kid="here"))[:2] == (2, None)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["mint", "--service", "orders"], "JWT_SECRET_KEY is not set"),
        (["mint", "--user", "u-1"], "--key FILE is needed"),
        (["mint", "--user", "u-1", "--key", "missing.pem"], "the key cannot be used"),
        (["inspect"], "no token came"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], why: str
) -> None:
    feed(monkeypatch, "")
    assert main(["token", *argv]) == 1
    told = capsys.readouterr()
    assert why in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "argv",
    [["mint"], ["mint", "--service", "nobody"], ["mint", "--user", "u", "--lifetime", "0"], ["forge"], []],
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", *argv])
    assert ended.value.code == 2
    assert "usage: gateway token" in capsys.readouterr().err


# --- audit


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    event = '{"event":"denied","user_id":"%s","client_ip":"192.0.2.1","status":403}\n'
    path.with_name("audit.jsonl.1").write_text(event % "u1" + event % "u2")
    path.write_text(event % "u1")
    return path


def test_a_users_events_are_handed_out_from_all_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trail: Path
) -> None:
    monkeypatch.setenv("AUDIT_LOG_FILE", str(trail))
    assert main(["audit", "export", "--user", "u1"]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["user_id"] for line in told.out.splitlines()] == ["u1", "u1"]
    assert "2 events" in told.err


def test_a_user_is_erased_only_when_that_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trail: Path
) -> None:
    feed(monkeypatch, "y\n")  # no terminal: nobody has agreed
    assert main(["audit", "erase", "--user", "u1", "--file", str(trail)]) == 1
    assert "u1" in trail.read_text()
    assert main(["audit", "erase", "--user", "u1", "--file", str(trail), "--yes"]) == 0
    assert "2 events changed" in capsys.readouterr().err
    left = trail.with_name("audit.jsonl.1").read_text() + trail.read_text()
    assert "u1" not in left
    assert left.count("u2") == 1
    assert left.count("192.0.2.1") == 1


def test_what_a_running_worker_holds_is_waited_for(capsys: pytest.CaptureFixture[str], trail: Path) -> None:
    arguments = ["audit", "export", "--user", "u1", "--file", str(trail)]
    assert main(arguments) == 0
    assert "no worker that runs here writes to this file" in capsys.readouterr().err
    file = AuditFile(trail)
    writer = Writer(file)
    held = [b'{"event":"denied","user_id":"u1","n":7}\n']
    asked = trail.with_name("audit.jsonl.writers") / "flush"
    stop = threading.Event()

    def work() -> None:
        """A worker's seconds, shorter; what it holds goes with the first flush after it was asked."""
        while not stop.wait(0.02):
            if held and asked.exists() and asked.read_bytes():
                writer.write(held.pop())
            writer.write(b"", 0)

    asked.unlink(missing_ok=True)
    worker = threading.Thread(target=work)
    worker.start()
    assert main(arguments) == 0
    stop.set()
    worker.join()
    assert writer.close(5)
    file.close()
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["n"] == 7
    assert "no worker" not in told.err


def test_a_missing_trail_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["audit", "export", "--user", "u1"]) == 1
    assert "AUDIT_LOG_FILE" in capsys.readouterr().err
    assert main(["audit", "export", "--user", "u1", "--file", str(tmp_path / "no" / "a.jsonl")]) == 1
    assert "there is no audit log" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- arguments of any kind


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "GET", "/a\udcff"],
        ["explain", "G\udcff", "/a"],
        ["audit", "export", "--user", "u", "--file", "/tmp/" + "a" * 300],
        ["audit", "export", "--user", "u", "--file", ""],
        ["audit", "export", "--user", "u", "--file", "/"],
        ["audit", "export", "--user", "u", "--file", "/tmp/\0"],
        ["token", "mint", "--user", "u\udcff", "--tenant", "t", "--key", "/dev/null"],
        ["token", "mint", "--user", "u", "--tenant", "t", "--key", "/tmp/" + "a" * 300],
        ["token", "mint", "--service", "orders", "--tenant", "\udcff"],
        ["token", "mint", "--service", "orders", "--lifetime", "nan"],
        ["token", "inspect", "\udcff.\udcff.\udcff"],
    ],
)
def test_an_argument_that_cannot_be_is_told_without_a_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", SECRET)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999999999999999999", "x", "-1", "70000"])
def test_health_of_a_port_that_cannot_be_is_told(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", port)
    assert main(["health"]) == 1
    assert "gateway: no answer from" in capsys.readouterr().err


def test_the_chain_is_verified_and_a_head_that_was_noted_looked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    for number in (1, 2):
        file(b'{"event":"audit","user_id":"u1","n":%d}\n' % number)
    file.close()
    assert main(["audit", "verify", "--file", str(path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("The chain holds: 2 lines, 1 to 2\nhead ")
    head = told.split()[-1]
    assert main(["audit", "verify", "--file", str(path), "--head", head]) == 0
    assert main(["audit", "verify", "--file", str(path), "--head", "0" * 64]) == 1
    assert "the head that was noted is not in it" in capsys.readouterr().out
    path.write_text(path.read_text().replace('"n":2', '"n":3'))
    assert main(["audit", "verify", "--file", str(path)]) == 1
    told = capsys.readouterr().out
    assert "audit.jsonl:2: was changed" in told
    assert "The chain is broken" in told
    path.write_text('{"event":"audit"}\n')
    assert main(["audit", "verify", "--file", str(path)]) == 0
    assert "There is no chain: 1 line without one" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["audit", "verify", "--file", str(path), "--head", "short"])
