"""The reference of the configuration as Markdown, for docs/settings.md and `gateway check --reference`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from kernel.config.settings import DEFAULT_CHANNELS
from kernel.config.tables import LIFE, ROUTE, SERVICE, VERSION, Field
from kernel.config.urls import REPLICAS
from kernel.config.variables import VARIABLES
from kernel.routing.catalog import CHANNELS
from kernel.routing.platform import SERVICES

BEGIN = "<!-- settings:begin -->"
END = "<!-- settings:end -->"


def reference() -> str:
    """Every variable and every field of gateway.toml, in tables."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    heads = ("Variable", "Type", "Default", "Meaning", "Example")
    for group, members in groupby(VARIABLES, lambda variable: variable.group):
        yield from (f"## {group}", "")
        yield from _table(
            heads,
            ((_code(v.name), v.kind.title, _value(v.default), v.about, _value(v.example)) for v in members),
        )
    yield from ("## Service URLs", "")
    yield from (f"Each is a {REPLICAS.title}. A service of gateway.toml has one too.", "")
    rows = (
        (
            _code(s.env),
            _code(f"http://{s.name}-service:8000"),
            ", ".join(_code(f"/api/v1/{p}/**") for p in s.prefixes),
        )
        for s in SERVICES
    )
    yield from _table(("Variable", "Default", "Routes"), rows)
    tables = [(f"`[services.NAME.{name}]`", field.fields) for name, field in SERVICE.items() if field.fields]
    for title, fields in (
        ("`[services.NAME]`", SERVICE),
        *tables,
        ("`[services.NAME.versions.vN]`", VERSION),
        ("`[versions.vN]`", LIFE),
        ("`[[routes]]`", ROUTE),
    ):
        yield from (f"## gateway.toml: {title}", "")
        yield from _fields(fields)
    yield from ("## gateway.toml: `[limits.tiers.TIER]`, `[limits.tenants.ID]`", "")
    yield from _table(
        ("Field", "Meaning", "Example"),
        (
            ("`requests`", "Requests of a tenant in each window, all its users together.", "`6000`"),
            ("`window`", "Seconds.", "`60`"),
        ),
    )
    yield from ("## gateway.toml: `[alerts.channels]`", "")
    rules = " ".join(f"`{name} = [{_quoted(channels)}]`" for name, channels in DEFAULT_CHANNELS.items())
    about = f"Where dispatched alerts of that severity go, out of {_quoted(CHANNELS)}. Built in: {rules}; others: sse."
    yield from _table(("Field", "Meaning", "Example"), [("a severity", about, '`["sse", "email"]`')])


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _fields(fields: Mapping[str, Field]) -> Iterator[str]:
    rows = ((_code(name), field.about, _code(field.example)) for name, field in fields.items())
    return _table(("Field", "Meaning", "Example"), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    listed = list(heads)
    yield _row(listed)
    yield _row("---" for _ in listed)
    yield from map(_row, rows)
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _value(text: str) -> str:
    """A value as code, a sentence as it is."""
    return text if " " in text else _code(text)
