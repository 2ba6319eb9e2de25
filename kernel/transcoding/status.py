"""A gRPC status as a problem: HTTP's status for each of its codes as Envoy's transcoder and grpc-gateway have it, and the
details that google.rpc.Status carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from kernel.http.problems import GRPC_KINDS, Extended, Headers, Problem
from kernel.transcoding.binding import shown_any
from kernel.transcoding.descriptors import Descriptors

DETAILS = "grpc-status-details-bin"
_UNAVAILABLE_OR_EXHAUSTED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
_MOST_TEXT = 2000
_MOST_DETAILS = 64
_MOST_NAMED = 5


def problem(descriptors: Descriptors, name: str, number: int, text: str, details: bytes) -> Problem:
    """The problem of a status that a service has sent: its `name` and `number`, its message, and the bytes of its details.

    SECURITY: what a framework says of an exception (UNKNOWN) tells of the service's insides, and is not passed on.
    """
    kind = GRPC_KINDS[name]
    shown = [] if name == "UNKNOWN" else _details(descriptors, details)
    said = "" if name == "UNKNOWN" else text[:_MOST_TEXT]
    violations = _violations(shown)
    if violations:
        said = f"{said.rstrip('.')}: {'; '.join(violations)}." if said else f"{'; '.join(violations)}."
    members: dict[str, Any] = {"grpc_status": name}
    if shown:
        members["details"] = shown
    headers: Headers = ((b"grpc-status", b"%d" % number),)
    if name in _UNAVAILABLE_OR_EXHAUSTED:
        headers = (*headers, *_retry(shown))
    return Extended(kind, said or kind.remedy, headers, members)


def _details(descriptors: Descriptors, data: bytes) -> list[dict[str, Any]]:
    if not data:
        return []
    try:
        status = status_pb2.Status.FromString(data)
    except DecodeError:
        return []
    return [shown_any(descriptors, each.type_url, each.value) for each in status.details[:_MOST_DETAILS]]


def _violations(details: Sequence[dict[str, Any]]) -> list[str]:
    """`field: what is wrong with it`, of google.rpc.BadRequest."""
    return [
        f"{each.get('field', '')}: {each.get('description', 'it is not accepted').rstrip('.')}"
        for detail in details
        if detail["@type"].endswith("/google.rpc.BadRequest")
        for each in detail.get("fieldViolations", ())[:_MOST_NAMED]
    ]


def _retry(details: Sequence[dict[str, Any]]) -> Headers:
    """Retry-After, of google.rpc.RetryInfo: whole seconds."""
    for detail in details:
        delay = detail.get("retryDelay", "") if detail["@type"].endswith("/google.rpc.RetryInfo") else ""
        if delay:
            seconds = float(delay.removesuffix("s"))
            return ((b"retry-after", b"%d" % max(1, int(seconds + 0.999))),)
    return ()
