"""`POST /api/v1/alerts/dispatch`: a service has one alert told by several channels. Service tokens only.

    {"tenant_id", "alert_id", "severity", "message", "timestamp", "channels"?, ...}

Everything but `channels` goes out as it came, fields that are not known here included. Without `channels` the severity
decides, by `[alerts.channels]` of gateway.toml.

    200   every channel has it (`delivered`, or `duplicate`: it had it before)
    207   some have it, some failed
    502   none has it; a problem document, with the same `results`
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from kernel.alerts.dispatch import FAILED, Result
from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.json_body import explain, read_json
from kernel.http.problems import (
    BODY_INVALID,
    BODY_TOO_LARGE,
    DISPATCH_FAILED,
    TENANT_FORBIDDEN,
    GatewayError,
)
from kernel.identity.claims import TenantId, fold_tenant
from kernel.openapi.own import PROBLEM, Answer, Operation, Operations
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State
from kernel.telemetry.audit import DISPATCH

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")
_NO_STORE = (b"cache-control", b"no-store")

_Line = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]


class _Alert(Struct):
    """What is demanded of an alert."""

    tenant_id: TenantId
    alert_id: _Line | int
    severity: Annotated[str, Meta(min_length=1, max_length=64)]
    message: Annotated[str, Meta(min_length=1, max_length=4096)]
    # RFC 3339, or Unix seconds.
    timestamp: datetime | Annotated[float, Meta(ge=0, le=99_999_999_999)]  # Unix seconds
    type: Annotated[str, Meta(max_length=64)] | None = None
    channels: Annotated[list[Literal["sse", "email", "whatsapp"]], Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        fold_tenant(self, "tenant_id", self.tenant_id)


_documents = msgspec.json.Decoder(dict[str, Any])


class _Outcome(Struct):
    """What became of the alert on each channel."""

    tenant_id: str
    alert_id: str | int
    results: list[Result]


OPERATIONS: Operations = {
    "POST alert-dispatch": Operation(
        "One alert by several channels",
        "alerts",
        {
            200: Answer("Every channel has it", _Outcome),
            207: Answer("Some channels have it", _Outcome),
            502: Answer("No channel has it: a problem document with the same `results`", media=PROBLEM),
        },
        description="Everything but `channels` goes out as it came, other fields included. Without `channels` the "
        "severity decides.",
        body=_Alert,
    )
}


def make(state: State, row: RouteRow) -> Handler:
    """The handler.

    Raises, when awaited:
        GatewayError: BODY_INVALID, naming the field; TENANT_FORBIDDEN, BODY_TOO_LARGE, and what `read_json` raises.
    """
    settings = state.settings
    patience = settings.body_timeout_seconds
    rules = settings.alert_channels
    severities = settings.alerts_severities
    most = settings.alerts_max_bytes

    def judge(x: Exchange, document: dict[str, Any]) -> _Alert:
        try:
            alert = msgspec.convert(document, _Alert)
        except msgspec.ValidationError as error:
            raise GatewayError(BODY_INVALID(explain(str(error), _Alert))) from None
        if alert.severity.lower() not in severities:
            known = ", ".join(severities)
            raise GatewayError(BODY_INVALID(f"`severity`: {alert.severity!r} is none of {known}."))
        if x.caller.tenant_id not in (None, alert.tenant_id):
            raise GatewayError(TENANT_FORBIDDEN("This service token is bound to another tenant."))
        if x.tenant not in (None, alert.tenant_id):
            raise GatewayError(BODY_INVALID("`tenant_id`: is not the tenant that X-Tenant-ID names."))
        return alert

    async def handle(x: Exchange) -> None:
        document = await read_json(x, _documents, patience)
        alert = judge(x, document)
        x.tenant = alert.tenant_id
        document.pop("channels", None)
        if len(msgspec.json.encode(document)) > most:
            raise GatewayError(BODY_TOO_LARGE(f"An alert may have at most {most} bytes."))
        chosen = alert.channels or rules.get(alert.severity.lower()) or ("sse",)
        channels = list(dict.fromkeys(chosen))
        results = await state.dispatcher.dispatch(
            alert.tenant_id, str(alert.alert_id), document, channels, x.request_id
        )
        failed = sum(result.status == FAILED for result in results)
        status = 502 if failed == len(results) else 207 if failed else 200
        state.audit.exchange(DISPATCH, x, status)
        told = {"tenant_id": alert.tenant_id, "alert_id": alert.alert_id, "results": results}
        if status != 502:
            await x.respond(status, [_JSON, _NO_STORE], msgspec.json.encode(told))
            return
        problem = DISPATCH_FAILED()
        x.problem_code = problem.kind.code
        told = {**msgspec.json.decode(problem.encode(x.raw_path, x.request_id)), **told}
        await x.respond(502, [_PROBLEM, _NO_STORE], msgspec.json.encode(told))

    return handle


FACTORIES: Factories = {"alert-dispatch": make}
