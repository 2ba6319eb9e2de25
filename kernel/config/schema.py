"""The JSON Schema of gateway.toml, for editors: it takes all that a gateway takes. What holds between fields is not in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from kernel.config.tables import CHANNELS, LIFE, ROUTE, SERVICE, SERVICE_NAME, VERSION, Field, LimitTable
from kernel.config.versions import VERSION_NAME
from kernel.routing.catalog import TIERS

_TEMPLATE = "#/$defs/{name}"


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    kinds = [field.type for fields in (SERVICE, ROUTE) for field in fields.values()]
    _, shared = msgspec.json.schema_components([*kinds, LimitTable], ref_template=_TEMPLATE)
    limit = {"$ref": _TEMPLATE.format(name=LimitTable.__name__)}
    limits = {
        "tiers": _table(dict.fromkeys(TIERS, limit)),
        "tenants": {"type": "object", "additionalProperties": limit},
    }
    versions = {"description": SERVICE["versions"].about, **_versions(VERSION)}
    service = _table({**_fields(SERVICE), "versions": versions})
    channels = msgspec.json.schema(CHANNELS)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.toml of Bakery Gateway",
        "$defs": shared,
        **_table(
            {
                "services": {
                    "description": "Services that are added or changed, by name.",
                    "type": "object",
                    "patternProperties": {f"^(?:{SERVICE_NAME})$": service},
                    "additionalProperties": False,
                },
                "versions": {"description": "Versions, whichever services have them.", **_versions(LIFE)},
                "routes": {
                    "description": "Routes that are added or changed, in order.",
                    "type": "array",
                    "items": {**_table(_fields(ROUTE)), "required": ["pattern"]},
                },
                "limits": {"description": "A tenant's requests, all its users together.", **_table(limits)},
                "alerts": _table({"channels": {"type": "object", "additionalProperties": channels}}),
            }
        ),
    }


def _table(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _versions(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "patternProperties": {f"^{VERSION_NAME}$": _table(_fields(fields))},
        "additionalProperties": False,
    }


def _fields(fields: Mapping[str, Field]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in fields.items():
        (kind,), _ = msgspec.json.schema_components([field.type], ref_template=_TEMPLATE)
        if field.fields is not None:
            kind = _table(_fields(field.fields))
        example = tomllib.loads(f"example = {field.example}")["example"]
        found[name] = {**kind, "description": field.about, "examples": [example]}
    return found
