"""The tables of gateway.toml: the type and text of each field, and how a table becomes values, or all its errors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from kernel.config.errors import ConfigError
from kernel.config.unknown import did_you_mean
from kernel.routing.catalog import Limit

# Field names are short: one wrong letter weighs more than in a variable's name.
_NEAR = 0.6
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
Method = Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
Tier = Literal["starter", "professional", "enterprise"]
Effect = Literal["logout", "subscription-changed"]
Idempotency = Literal["off", "optional", "required"]
Channel = Literal["sse", "email", "whatsapp"]
CHANNELS = Annotated[list[Channel], Meta(min_length=1)]
# NAME or NAME=VALUE; names that are the gateway's or a standard's are refused by what reads it.
CHOOSER = r"x-[a-z0-9]+(?:-[a-z0-9]+)*(?:=[A-Za-z0-9._~-]+)?"
SERVICE_NAME = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_Path = Annotated[str, Meta(pattern=r"^/[A-Za-z0-9._~/-]*$")]
_Operation = Annotated[str, Meta(pattern=r"^(?:[a-z][a-z0-9-]{0,63})?$")]
_File = Annotated[str, Meta(min_length=1)]
_Segment = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~-]+$")]


class LimitTable(Struct, forbid_unknown_fields=True):
    """`{requests = 30, window = 60}`."""

    requests: Annotated[int, Meta(ge=1, le=10**9)]
    window: Annotated[float, Meta(ge=1, le=86400)]

    def limit(self) -> Limit:
        return Limit(self.requests, self.window)


class Field(Struct, frozen=True):
    """One field: what msgspec accepts for it, and its row of the reference; of a table, its own fields."""

    type: Any
    about: str
    example: str
    fields: Mapping[str, Field] | None = None


LIFE: Mapping[str, Field] = {
    "deprecated": Field(
        str,
        "Since or from when it is deprecated: callers are told by `Deprecation`. A date, or a time with its offset.",
        '"2026-12-31"',
    ),
    "sunset": Field(str, "When it may stop to answer (`Sunset`); not before `deprecated`.", '"2027-06-30"'),
    "successor": Field(str, "The version that takes its place, or a URL.", '"v2"'),
    "deprecation_page": Field(str, "URL or path of a page about it.", '"https://example.com/deprecations"'),
    "sunset_page": Field(str, "The same about the end.", '"https://example.com/sunsets"'),
}
VERSION: Mapping[str, Field] = {
    "url": Field(
        str | list[str],
        "URL, or URLs, of replicas of its own; the variable `NAME_SERVICE_URL_VN` overrides it. None: the service's.",
        '"http://inventory-v2:8000"',
    ),
    "prefix": Field(
        _Path,
        "What stands at the service where clients write `/api/vN`. None: paths are sent as they come.",
        '"/v2"',
    ),
    **LIFE,
}
POLICY: Mapping[str, Field] = {
    "methods": Field(
        Annotated[list[Method], Meta(min_length=1)], "The methods; all by default.", '["GET", "POST"]'
    ),
    "public": Field(bool, "Needs no token.", "true"),
    "service_only": Field(bool, "Only for service tokens.", "true"),
    "min_tier": Field(Tier, "The lowest tier that may use it.", '"professional"'),
    "limit": Field(
        LimitTable, "A rate limit of its own, beside the client's.", "{requests = 30, window = 60}"
    ),
    "timeout": Field(
        Annotated[float, Meta(gt=0, le=3600)], "Seconds until the response's first byte.", "120"
    ),
    "ip_allow": Field(
        list[str], "Only these networks may call it, if they may call at all (`IP_ALLOW`).", '["10.0.0.0/8"]'
    ),
    "ip_deny": Field(list[str], "Networks that may not call it.", '["203.0.113.0/24"]'),
    "max_body": Field(int | str, "Largest request body.", '"50MiB"'),
    "capture": Field(bool, "Whether it is captured, whatever `CAPTURE_ROUTES` says.", "false"),
    "idempotency": Field(
        Idempotency,
        "Whether POST and PATCH heed an `Idempotency-Key`, or demand one; by default as `IDEMPOTENCY` says.",
        '"required"',
    ),
    "graphql": Field(
        bool,
        "The service speaks GraphQL here: documents are judged by the limits of GraphQL before they are sent on.",
        "true",
    ),
    "allow_encoded_slash": Field(bool, "Lets `%2F` through in paths.", "true"),
    "strip_prefix": Field(
        str,
        "Where the pattern begins; the service is sent what follows. Empty: nothing is stripped.",
        '"/api/v1/loyalty"',
    ),
    "rewrite": Field(
        str,
        "The path that is sent, by the pattern's variables. Empty: the path that came.",
        '"/v3/items/{id}/**"',
    ),
    "set_headers": Field(
        dict[str, str], "What the service is told, in place of what the client said.", '{"x-channel" = "web"}'
    ),
    "remove_headers": Field(list[str], "What the client said and the service is not told.", '["x-debug"]'),
    "response_headers": Field(
        dict[str, str],
        "What clients are told in place of what the service said; an empty value removes.",
        '{"cache-control" = "no-store", "server" = ""}',
    ),
}
_URL = str | list[str]
_Percent = Annotated[float, Meta(ge=0, le=100)]
CANARY: Mapping[str, Field] = {
    "url": Field(
        _URL,
        "Its URL, or those of its replicas; the variable `NAME_SERVICE_URL_CANARY` overrides it.",
        '"http://inventory-next:8000"',
    ),
    "percent": Field(_Percent, "Its share; two decimals count.", "5"),
    "sticky": Field(
        Literal["user", "tenant"], "Whose requests stay together; `user` by default.", '"tenant"'
    ),
    "header": Field(
        Annotated[str, Meta(pattern=f"^{CHOOSER}$")],
        "A header by which a client chooses: `always` or `never`; with `=VALUE`, that value alone chooses the canary.",
        '"x-canary"',
    ),
}
MIRROR: Mapping[str, Field] = {
    "url": Field(
        _URL,
        "Its URL, or those of its replicas; the variable `NAME_SERVICE_URL_MIRROR` overrides it.",
        '"http://inventory-next:8000"',
    ),
    "percent": Field(_Percent, "How many of the requests are copied.", "10"),
    "methods": Field(
        Annotated[list[Method], Meta(min_length=1)],
        "Which are; `GET` and `HEAD` by default. What others change, the mirror changes too.",
        '["GET", "HEAD"]',
    ),
    "timeout": Field(
        Annotated[float, Meta(gt=0, le=60)], "Seconds that a copy may take in all; 5 by default.", "2"
    ),
}
SERVICE: Mapping[str, Field] = {
    "url": Field(
        _URL,
        "Its URL, or those of its replicas; the variable `NAME_SERVICE_URL` overrides it.",
        '"http://loyalty:8000"',
    ),
    "prefixes": Field(list[_Segment], "Path segments below `/api/v1/`; its name by default.", '["loyalty"]'),
    "health": Field(_Path, "Path of its health check.", '"/health"'),
    "openapi": Field(_Path, "Path of its OpenAPI document.", '"/openapi.json"'),
    "tenant_scoped": Field(bool, "Also answers below `/api/v1/tenants/{tenant_id}/`.", "false"),
    "preserve_host": Field(bool, "It is sent the `Host` that the client named, not that of its URL.", "true"),
    "protocol": Field(
        Literal["http", "grpc"],
        "`grpc`: requests are translated by the rules in `descriptors`, see [gRPC](grpc.md). Needs the extra `grpc`.",
        '"grpc"',
    ),
    "descriptors": Field(
        _File,
        "Of a gRPC service: what `protoc --include_imports --descriptor_set_out` writes, relative to gateway.toml.",
        '"loyalty.binpb"',
    ),
    "max_message": Field(int | str, "Of a gRPC service: the largest message of its answers.", '"4MiB"'),
    "ca": Field(
        _File,
        "PEM file of the authorities that may sign its certificate, instead of the system's.",
        '"/run/tls/internal-ca.crt"',
    ),
    "client_cert": Field(
        _File, "PEM file of the certificate (chain) it is shown, with `client_key`.", '"/run/tls/gateway.crt"'
    ),
    "client_key": Field(
        _File, "PEM file of its private key, without a passphrase.", '"/run/tls/gateway.key"'
    ),
    "versions": Field(dict[str, Any], "Its API's versions, by name: see below.", '{v2 = {prefix = "/v2"}}'),
    "canary": Field(
        dict[str, Any],
        "A version of it that answers a share of its requests: `[services.NAME.canary]`.",
        '{url = "http://inventory-next:8000", percent = 5}',
        CANARY,
    ),
    "mirror": Field(
        dict[str, Any],
        "Gets copies of its requests, and is not waited for: `[services.NAME.mirror]`.",
        '{url = "http://inventory-next:8000", percent = 10}',
        MIRROR,
    ),
    **POLICY,
}
ROUTE: Mapping[str, Field] = {
    "pattern": Field(
        str, "`{name}` is one segment, a trailing `**` any number of them.", '"/api/v1/loyalty/export/**"'
    ),
    "service": Field(str, "Which service answers.", '"loyalty"'),
    "always_writable": Field(bool, "Works without an active subscription and in read-only mode.", "true"),
    "critical": Field(
        _Operation,
        "The operation that the tenant service is asked about each time; refused when it cannot say. Empty: none.",
        '"delete-tenant"',
    ),
    "websocket": Field(bool, "A WebSocket is served here, and nothing else.", "true"),
    "effect": Field(Effect, "What a 2xx answer makes the gateway do.", '"subscription-changed"'),
    **POLICY,
}


def decode(
    table: object, fields: Mapping[str, Field], where: str, errors: list[ConfigError]
) -> dict[str, Any]:
    """The sound values of `table`; an error, placed below `where`, for every other field."""
    if not isinstance(table, dict):
        errors.append(ConfigError(where, "is not a table"))
        return {}
    values: dict[str, Any] = {}
    for name, value in table.items():
        field = fields.get(name)
        if field is None:
            errors.append(ConfigError(f"{where} {name}", unknown(name, fields)))
            continue
        try:
            values[name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            problem, place = _explain(str(error), field.type)
            errors.append(ConfigError(f"{where} {name}{place}", problem, f"{name} = {field.example}"))
    return values


def decode_limit(table: object, where: str, errors: list[ConfigError]) -> Limit | None:
    """The limit that `table` is, or an error."""
    try:
        limit = msgspec.convert(table, LimitTable)
    except msgspec.ValidationError as error:
        problem, place = _explain(str(error), LimitTable)
        errors.append(ConfigError(f"{where} {place[1:]}".strip(), problem, "requests = 600, window = 60"))
        return None
    return limit.limit()


def decode_channels(value: object, where: str, errors: list[ConfigError]) -> tuple[str, ...]:
    """The channels that `value` lists, each once; empty after an error."""
    try:
        return tuple(dict.fromkeys(msgspec.convert(value, CHANNELS)))
    except msgspec.ValidationError as error:
        problem, place = _explain(str(error), CHANNELS)
        errors.append(ConfigError(where + place, problem, '["sse", "email"]'))
        return ()


def unknown(name: str, known: Collection[str]) -> str:
    """The problem of a name that is none of `known`."""
    near = did_you_mean(name, known, _NEAR)
    return (
        f"is unknown; did you mean {near}?" if near else f"is unknown; there are {', '.join(sorted(known))}"
    )


def _explain(problem: str, kind: Any) -> tuple[str, str]:
    """msgspec's message in our words, and the place inside the value."""
    place = ""
    found = _PLACE.search(problem)
    if found:
        problem = problem[: found.start()]
        place = found[1] if found[1].startswith("[") else f".{found[1]}"
    if problem.startswith("Invalid enum value "):
        named = problem.removeprefix("Invalid enum value ")
        problem = f"{named} is not one of {', '.join(_options(kind))}"
    return problem[0].lower() + problem[1:], place


def _options(kind: Any) -> tuple[str, ...]:
    """The names that a (list of) `Literal` allows."""
    arguments = get_args(kind)
    return arguments if arguments and isinstance(arguments[0], str) else _options(arguments[0])
