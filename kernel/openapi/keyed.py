"""What a route that heeds idempotency keys adds to its service's operations."""

from __future__ import annotations

from kernel.http.problems import (
    IDEMPOTENCY_ANSWER_NOT_KEPT,
    IDEMPOTENCY_KEY_INVALID,
    IDEMPOTENCY_KEY_REQUIRED,
    IDEMPOTENCY_MISMATCH,
    IDEMPOTENCY_OUTCOME_UNKNOWN,
    IDEMPOTENCY_UNAVAILABLE,
    IDEMPOTENCY_UNDER_WAY,
    ProblemKind,
)
from kernel.openapi.parts import Json
from kernel.routing.catalog import RouteRow
from kernel.routing.keyed import KEYED_METHODS, REQUIRED

# The parameter is the gateway's to describe, whatever the service says of it.
PARAMETER = "idempotency-key"
_KINDS: tuple[ProblemKind, ...] = (
    IDEMPOTENCY_KEY_INVALID,
    IDEMPOTENCY_UNDER_WAY,
    IDEMPOTENCY_OUTCOME_UNKNOWN,
    IDEMPOTENCY_ANSWER_NOT_KEPT,
    IDEMPOTENCY_MISMATCH,
    IDEMPOTENCY_UNAVAILABLE,
)


def heeded(row: RouteRow, method: str) -> bool:
    """Whether the operation takes a key."""
    return row.idempotency is not None and method.upper() in KEYED_METHODS


def declare(operation: Json, row: RouteRow) -> None:
    """Add the parameter, what the gateway answers by it, and the mark of a replay."""
    required = row.idempotency == REQUIRED
    parameter: Json = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "One for each operation, a UUID at best. Sent again under it, this is done once, answered as before.",
        "schema": {"type": "string", "minLength": 1},
    }
    if required:
        parameter["required"] = True
    operation.setdefault("parameters", []).append(parameter)
    responses: Json = operation["responses"]
    for response in responses.values():
        if "$ref" not in response:
            response.setdefault("headers", {})["Idempotent-Replayed"] = {
                "description": "This is the answer to the first request under its key.",
                "schema": {"type": "string", "const": "true"},
            }
    kinds: dict[int, list[ProblemKind]] = {}
    for kind in (IDEMPOTENCY_KEY_REQUIRED, *_KINDS) if required else _KINDS:
        kinds.setdefault(kind.status, []).append(kind)
    for status, those in kinds.items():
        # What the service says of its own is not contradicted: any operation may answer with a problem, too.
        responses.setdefault(str(status), _response(those))


def _response(kinds: list[ProblemKind]) -> Json:
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "code"],
        "properties": {"code": {"type": "string", "enum": [kind.code for kind in kinds]}},
    }
    return {
        "description": "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds),
        "content": {"application/problem+json": {"schema": schema}},
    }
