"""The reference: complete, true to the code, and the same in docs/settings.md."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from kernel.config import Settings, load, tables
from kernel.config.reference import BEGIN, END, reference
from kernel.config.values import PATH
from kernel.config.variables import VARIABLES, Variable
from kernel.routing.platform import SERVICES
from tests.support.certificates import pair

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"
COMPUTED = {
    "provisional_keys",
    "services",
    "service_catalog",
    "routes",
    "tier_limits",
    "tenant_limits",
    "alert_channels",
}


def test_every_setting_is_a_variable_or_computed() -> None:
    assert {variable.attribute for variable in VARIABLES} | COMPUTED == set(Settings.__struct_fields__)


def test_reference_names_every_variable_and_field() -> None:
    text = reference()
    for name in [v.name for v in VARIABLES] + [s.env for s in SERVICES]:
        assert text.count(f"| `{name}` |") == 1
    for name in {*tables.SERVICE, *tables.ROUTE}:
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_variable_is_documented_with_a_sound_example_and_default(variable: Variable) -> None:
    assert variable.about.endswith(".")
    assert variable.kind.title
    variable.kind.parse(variable.example)
    # What the reference calls the default is what the code does, unless it is a sentence.
    if variable.default and " " not in variable.default:
        assert variable.kind.parse(variable.default) == getattr(Settings(), variable.attribute)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_variable_is_read_from_the_environment(variable: Variable, tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    (tmp_path / "file").touch()
    files = {"TLS_CERT_FILE": chain, "TLS_KEY_FILE": key}
    sound = {
        "REDIS_HOST": "redis",
        "JWT_PUBLIC_KEY": "x",
        **{name: str(path) for name, path in files.items()},
    }
    example = str(files.get(variable.name, tmp_path / "file")) if variable.kind is PATH else variable.example
    settings = load(sound | {variable.name: example})
    assert getattr(settings, variable.attribute) == variable.kind.parse(example)


@pytest.mark.parametrize("table", [tables.SERVICE, tables.ROUTE], ids=["services", "routes"])
def test_examples_of_gateway_toml_fields_are_sound(table: dict[str, tables.Field]) -> None:
    for name, field in table.items():
        value = msgspec.toml.decode(f"value = {field.example}".encode())["value"]
        errors: list[object] = []
        assert tables.decode({name: value}, table, "x", errors)  # type: ignore[arg-type]
        assert errors == []


def test_the_page_has_the_reference() -> None:
    written = PAGE.read_text().split(BEGIN, 1)[1].split(END, 1)[0].strip()
    assert written == reference().strip(), "run `make reference`"


# These make up `redis_url`, the routes and the like, and have done their work when the settings are there.
WITHIN = {"redis_host", "redis_port", "redis_db", "redis_password", "gateway_config", "idempotency"}


def test_no_variable_is_silently_ignored() -> None:
    root = PAGE.parents[1]
    sources = [
        path
        for path in (*root.glob("kernel/**/*.py"), *root.glob("handlers/*.py"))
        if path.relative_to(root).parts[:2] not in (("kernel", "config"), ("kernel", "cli"))
    ]
    text = "\n".join(path.read_text() for path in sources)
    unread = {name for name in Settings.__struct_fields__ if not re.search(rf"settings\.{name}\b", text)}
    assert unread <= WITHIN
