"""Whatever a variable or a field of gateway.toml says: settings or named errors, no other exception, no secret shown."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from kernel.cli.check import facts
from kernel.cli.output import print_errors
from kernel.cli.settings import usable_keys, usable_routes, usable_store
from kernel.config import ConfigErrors, load_with_warnings
from kernel.config.tables import ROUTE, SERVICE
from kernel.config.variables import VARIABLES
from kernel.routing.platform import SERVICES

RULES = (usable_keys, usable_store, usable_routes)
NAMES = [
    *(variable.name for variable in VARIABLES),
    *(f"{variable.name}_FILE" for variable in VARIABLES if variable.secret),
    SERVICES[0].env,
]
FIRM = how(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# What has been somebody's undoing: brackets, marks of URLs, half characters, long names, devices, huge numbers.
PIECES = st.sampled_from(
    ["[", "]", "@", "?", "#", "/", ":", ",", "=", "%", "%00", "\\", '"', "'", "{", "}", "redis://", "rediss://", "unix://",
     "redis+sentinel://", "redis+cluster://", "http://", "https://", "-----BEGIN PUBLIC KEY-----", "\udcff", "\n", "\r", "\0",
     "ñ", "٣", "🥐", "x" * 300, "9" * 400, "1", "-1", ".", "..", "/dev/null", "/dev/zero", "/", "/tmp", "/proc/self/mem",
     "[::1", "::1", "*", "true", "auto", "nan", "inf", "1e999", "KiB", "?ssl_ca_certs=/nope", "?db=", " ", "\u2028"]
)  # fmt: skip
VALUES = st.one_of(
    st.lists(PIECES, max_size=6).map("".join),
    st.text(max_size=40),
    st.binary(max_size=40).map(os.fsdecode),
)
WORDS = st.text(max_size=12) | st.lists(PIECES.filter(lambda piece: "\udcff" not in piece), max_size=4).map(
    "".join
)
TOML = st.recursive(
    st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def outcome(environ: dict[str, str]) -> str:
    """All that is told of a configuration."""
    told = io.StringIO()
    try:
        loaded = load_with_warnings(environ, None, RULES)
    except ConfigErrors as found:
        print_errors(found.errors, found.warnings, told)
        return told.getvalue() + str(found) + repr(found)
    print_errors((), loaded.warnings, told)
    assert list(facts(loaded.settings))
    return told.getvalue() + repr(loaded.settings)


@pytest.mark.parametrize("name", NAMES)
@given(value=VALUES, environment=st.sampled_from(["dev", "prod"]))
@FIRM
def test_any_value_of_a_variable_is_taken_or_told(name: str, value: str, environment: str) -> None:
    outcome({"ENVIRONMENT": environment, "REDIS_HOST": "redis", name: value})


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=12))
@FIRM
def test_any_values_together(environ: dict[str, str]) -> None:
    outcome(environ)


SHAPES = (
    "{mark}", "redis://:{mark}@cache", "rediss://{mark}@cache?ssl_ca_certs=/nope", "redis://:{mark}", "redis://:a?{mark}@h",
    "redis://:a/{mark}@h/1", "redis://:a#{mark}@h", "redis://[{mark}", "redis://h?password={mark}&db=x", "unix://:{mark}@/s?x=1",
    "redis+sentinel://:{mark}@h", "redis+sentinel://h/m?sentinel_password={mark}&y", "nonsense://:{mark}@h", "redis://:a@{mark}@h,b",
)  # fmt: skip


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES if variable.secret])
@pytest.mark.parametrize("shape", SHAPES)
@given(mark=st.lists(PIECES, max_size=2).map(lambda pieces: f"hunter2{''.join(pieces)}hunter2"))
@how(FIRM, max_examples=20)
def test_no_secret_is_quoted(name: str, shape: str, mark: str) -> None:
    told = outcome({"REDIS_HOST": "redis", name: shape.format(mark=mark)})
    assert "hunter2" not in told


def toml(value: Any) -> str:
    """`value` as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(escaped(letter) for letter in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    return str(value)


def escaped(letter: str) -> str:
    return letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}"


def tables(fields: dict[str, Any]) -> str:
    return "\n".join(f"{toml(name)} = {toml(value)}" for name, value in fields.items())


def fields_of(names: Iterator[str] | Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(names)) | WORDS, TOML, max_size=4)


@given(
    service=fields_of(SERVICE),
    name=st.sampled_from(["inventory", "loyalty"]) | WORDS,
    routes=st.lists(fields_of(ROUTE), max_size=3),
    pattern=st.sampled_from(["/api/v1/inventory/x", "/a/{b}/**"]) | TOML,
    rest=st.dictionaries(st.sampled_from(["limits", "alerts", "services", "routes", "x"]), TOML, max_size=2),
)
@how(FIRM, max_examples=300)
def test_any_value_of_a_field_is_taken_or_told(
    service: dict[str, Any],
    name: str,
    routes: list[dict[str, Any]],
    pattern: Any,
    rest: dict[str, Any],
    tmp_path: Path,
) -> None:
    text = tables({key: value for key, value in rest.items() if key not in ("services", "routes")})
    if "services" in rest or "routes" in rest:
        text = tables(rest)  # instead of tables of that name
    else:
        text += f"\n[services.{toml(name)}]\n{tables(service)}\n"
        for route in routes:
            text += f"[[routes]]\n{tables({'pattern': pattern, 'service': 'inventory', **route})}\n"
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    told = outcome({"REDIS_HOST": "redis", "GATEWAY_CONFIG": str(path)})
    assert "is not TOML" not in told or "Exceeds" in told, text


@pytest.mark.parametrize("pattern", ['["/x"]', "{a = 1}", "5", "true", '""', '"x"', '"/a/{B}"', '"/\\u0000"'])
def test_a_pattern_of_any_kind_is_told_by_its_place(pattern: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[[routes]]\npattern = {pattern}\nservice = "inventory"\n')
    assert "gateway.toml [[routes]] #1" in outcome({"REDIS_HOST": "redis", "GATEWAY_CONFIG": str(path)})


def test_a_name_too_long_for_a_file_is_told() -> None:
    long = "/tmp/" + "a" * 300
    for name in ("AUDIT_LOG_FILE", "GATEWAY_CONFIG", "TLS_CERT_FILE", "JWT_SECRET_KEY_FILE"):
        assert name in outcome({name: long})
    assert "leave room for those of rotated files" in outcome({"AUDIT_LOG_FILE": "/tmp/" + "a" * 250})
