"""Every error the gateway can answer, as RFC 9457 problem documents.

GatewayError                    anything that ends a request with a problem document
 +-- ClientGone                 the client closed the connection (logged as 499, nothing can be sent)

A `ProblemKind` is a row of the catalogue; calling it makes a `Problem`, one occurrence with its own detail and headers.
"""

from __future__ import annotations

import kernel.http.key_problems  # noqa: F401  # what is declared there is in the catalogue, too
from kernel.http.problem import CATALOGUE, Extended, Headers, Problem, ProblemKind

__all__ = ["CATALOGUE", "Extended", "Headers", "Problem", "ProblemKind"]


class GatewayError(Exception):
    """Ends the request with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ClientGone(GatewayError):
    """The client left before its response was complete; recorded as 499."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(CLIENT_GONE(detail))


# --- the request itself -------------------------------------------------------------------------------------
BAD_PATH = ProblemKind(
    "bad-path",
    400,
    "Malformed path",
    "Send a path without dot segments, empty segments, encoded slashes, backslashes or control bytes.",
)
BAD_REQUEST = ProblemKind("bad-request", 400, "Malformed request", "Correct the request and send it again.")
BAD_HOST = ProblemKind(
    "bad-host", 400, "Host not served here", "Send exactly one Host header naming a host of this gateway."
)
UPGRADE_REQUIRED = ProblemKind(
    "upgrade-required", 426, "A WebSocket is served here", "Open a WebSocket (RFC 6455) at this address."
)
ORIGIN_FORBIDDEN = ProblemKind(
    "origin-forbidden",
    403,
    "Origin not allowed",
    "Open the WebSocket from a page of an allowed origin; the operator lists them in CORS_ORIGINS.",
)
ADDRESS_FORBIDDEN = ProblemKind(
    "address-forbidden",
    403,
    "Address not allowed",
    "Call from a network that the operator allows here (IP_ALLOW, IP_DENY, and the route's own lists).",
)
BODY_TIMEOUT = ProblemKind("body-timeout", 408, "Request body too slow", "Send the body without long pauses.")
BODY_TOO_LARGE = ProblemKind(
    "body-too-large", 413, "Request body too large", "Send a smaller body, or in several requests."
)
BODY_INVALID = ProblemKind(
    "body-invalid", 422, "Request body invalid", "Correct the field that the detail names."
)
PARAMETER_INVALID = ProblemKind(
    "parameter-invalid", 422, "Query parameter invalid", "Correct the parameter that the detail names."
)
HEADERS_TOO_LARGE = ProblemKind(
    "headers-too-large",
    431,
    "Request headers too large",
    "Send fewer or shorter headers and a shorter target.",
)
HTTPS_REDIRECT = ProblemKind("https-redirect", 308, "HTTPS required", "Follow the Location header.")
HTTPS_REQUIRED = ProblemKind("https-required", 403, "HTTPS required", "Use the https URL of this gateway.")
ROUTE_UNKNOWN = ProblemKind(
    "route-unknown",
    404,
    "No such route",
    "Check the path: /api/v1/ or /api/v1/tenants/{tenant_id}/, then a service's prefix; case and a trailing slash count. "
    "Operators see all routes with `gateway routes`, and what becomes of a path with `gateway explain GET <path>`.",
)
VERSION_UNKNOWN = ProblemKind(
    "version-unknown", 404, "No such version", "Use a version of the service's API that the detail names."
)
METHOD_NOT_ALLOWED = ProblemKind(
    "method-not-allowed", 405, "Method not allowed", "Use a method the Allow header lists."
)
CLIENT_GONE = ProblemKind(
    "client-gone", 499, "Client closed the request", "The client left before the answer."
)

# --- tokens ----------------------------------------------------------------------------------------------------
TOKEN_MISSING = ProblemKind(
    "token-missing", 401, "Token missing", "Send 'Authorization: Bearer <token>'; log in to get one."
)
TOKEN_MALFORMED = ProblemKind(
    "token-malformed", 401, "Token malformed", "Send the token exactly as it was issued."
)
TOKEN_TOO_LARGE = ProblemKind("token-too-large", 401, "Token too large", "Tokens may have at most 8 KiB.")
TOKEN_ALGORITHM = ProblemKind(
    "token-algorithm", 401, "Token algorithm refused", "Use a token signed with this gateway's algorithm."
)
TOKEN_KEY_UNKNOWN = ProblemKind(
    "token-key-unknown",
    401,
    "Token key unknown",
    "Log in again: the token was signed with a key not known here.",
)
TOKEN_SIGNATURE = ProblemKind(
    "token-signature", 401, "Token signature invalid", "Log in again to get a new token."
)
TOKEN_EXPIRED = ProblemKind("token-expired", 401, "Token expired", "Refresh the token or log in again.")
TOKEN_NOT_YET_VALID = ProblemKind(
    "token-not-yet-valid", 401, "Token not yet valid", "Check the clocks: the token starts in the future."
)
TOKEN_ISSUER = ProblemKind(
    "token-issuer", 401, "Token issuer refused", "Use a token of this platform's issuer."
)
TOKEN_AUDIENCE = ProblemKind(
    "token-audience", 401, "Token audience refused", "Use a token made for this gateway."
)
TOKEN_TYPE = ProblemKind("token-type", 401, "Token type refused", "Send an access or a service token.")
TOKEN_CLAIMS = ProblemKind(
    "token-claims", 401, "Token claims invalid", "Log in again: a claim is missing or unusable."
)
TOKEN_CRITICAL_HEADER = ProblemKind(
    "token-critical-header", 401, "Token header refused", "Tokens with 'crit' or 'b64' are not accepted."
)
TOKEN_REVOKED = ProblemKind("token-revoked", 401, "Token revoked", "Log in again.")
TOKEN_STALE = ProblemKind(
    "token-stale",
    401,
    "Token out of date",
    "Refresh the token: the subscription changed after it was issued.",
)
TICKET_INVALID = ProblemKind(
    "ticket-invalid",
    401,
    "Ticket not valid",
    "Get a new ticket with POST /api/v1/alerts/ticket: each opens one stream or socket, within 30 seconds.",
)
AUTH_UNAVAILABLE = ProblemKind(
    "auth-unavailable", 503, "Authentication unavailable", "Try again shortly: tokens cannot be verified now."
)

# --- who may do what ---------------------------------------------------------------------------------------------
SERVICE_UNKNOWN = ProblemKind(
    "service-unknown",
    403,
    "Service not registered",
    "Only registered internal services may use service tokens.",
)
SERVICE_ONLY = ProblemKind(
    "service-only", 403, "Service tokens only", "Call this route with a service token."
)
TENANT_INVALID = ProblemKind(
    "tenant-invalid",
    400,
    "Tenant id malformed",
    "Send one tenant id of letters, digits, '-' and '_', at most 64; a UUID in any case, with its dashes.",
)
TENANT_FORBIDDEN = ProblemKind(
    "tenant-forbidden", 403, "No access to this tenant", "Ask an owner of the tenant for access."
)
TENANT_UNAVAILABLE = ProblemKind(
    "tenant-unavailable",
    503,
    "Tenant access cannot be checked",
    "Try again shortly: the tenant service is down.",
)
TENANT_READ_ONLY = ProblemKind(
    "tenant-read-only", 403, "Tenant is read-only", "Reading and billing still work; contact the platform."
)
PLATFORM_READ_ONLY = ProblemKind(
    "platform-read-only",
    403,
    "Platform is read-only",
    "Writing is suspended for maintenance; try again later.",
)
SUBSCRIPTION_REQUIRED = ProblemKind(
    "subscription-required", 402, "Subscription not active", "Reactivate the subscription in billing."
)
SUBSCRIPTION_EXPIRED = ProblemKind(
    "subscription-expired", 402, "Subscription expired", "Renew the subscription in billing."
)
TIER_REQUIRED = ProblemKind(
    "tier-required", 403, "Higher tier required", "Upgrade the subscription for this feature."
)
CRITICAL_DENIED = ProblemKind(
    "critical-denied", 403, "Operation refused", "The tenant service does not allow this operation."
)
DEMO_SESSION_INVALID = ProblemKind(
    "demo-session-invalid", 401, "Demo session unknown", "Start a new demo session."
)
DEMO_SESSION_EXPIRED = ProblemKind(
    "demo-session-expired", 401, "Demo session over", "Start a new demo session."
)
DEMO_FORBIDDEN = ProblemKind(
    "demo-forbidden",
    403,
    "Not in demo mode",
    "Demo identities stay in their demo tenant; log in for real data.",
)
DEMO_UNAVAILABLE = ProblemKind(
    "demo-unavailable", 503, "Demo sessions cannot be checked", "Try again shortly: the demo service is down."
)

# --- load and limits -----------------------------------------------------------------------------------------------
RATE_LIMITED = ProblemKind("rate-limited", 429, "Too many requests", "Wait as long as Retry-After says.")
RATE_LIMIT_UNAVAILABLE = ProblemKind(
    "rate-limit-unavailable", 503, "Limits cannot be checked", "Try again shortly."
)
STORE_UNAVAILABLE = ProblemKind(
    "store-unavailable",
    503,
    "Store unavailable",
    "Try again shortly: it is not certain that anything changed.",
)
OVERLOADED = ProblemKind("overloaded", 503, "Gateway at capacity", "Wait as long as Retry-After says.")
STREAM_SLOW = ProblemKind(
    "stream-slow",
    503,
    "Stream not read fast enough",
    "Connect again with the last event's id; read events as they come.",
)
DRAINING = ProblemKind(
    "draining", 503, "Gateway is shutting down", "Try again: another instance will answer."
)

# --- idempotency keys ------------------------------------------------------------------------------------------------
IDEMPOTENCY_KEY_REQUIRED = ProblemKind(
    "idempotency-key-required",
    400,
    "Idempotency-Key missing",
    "Send an Idempotency-Key header: a new UUID for each new operation, the same one when you send it again.",
)
IDEMPOTENCY_KEY_INVALID = ProblemKind(
    "idempotency-key-invalid",
    400,
    "Idempotency-Key malformed",
    "Send one Idempotency-Key of 1 to 255 visible ASCII characters, in double quotes or bare; a UUID is best.",
)
IDEMPOTENCY_UNDER_WAY = ProblemKind(
    "idempotency-under-way",
    409,
    "Request with this key under way",
    "Wait as long as Retry-After says and send it again: you will get the first one's answer.",
)
IDEMPOTENCY_OUTCOME_UNKNOWN = ProblemKind(
    "idempotency-outcome-unknown",
    409,
    "Outcome of the first request unknown",
    "Look up whether it took effect before you try again, with a new key: the service may have had the first one, and its "
    "answer was lost.",
)
IDEMPOTENCY_ANSWER_NOT_KEPT = ProblemKind(
    "idempotency-answer-not-kept",
    409,
    "Answered before, but not kept",
    "It was done: look up its result. Answers that stream, or are too large, are not kept.",
)
IDEMPOTENCY_MISMATCH = ProblemKind(
    "idempotency-mismatch",
    422,
    "Idempotency-Key used for another request",
    "Send a new key for a new operation; under this one, method, target, content type and body must stay the same.",
)
IDEMPOTENCY_UNAVAILABLE = ProblemKind(
    "idempotency-unavailable",
    503,
    "Idempotency keys cannot be checked",
    "Try again shortly with the same key: the request was not handed to the service.",
)

# --- upstreams -------------------------------------------------------------------------------------------------------
UPSTREAM_CONNECT = ProblemKind("upstream-connect", 502, "Service unreachable", "Try again shortly.")
UPSTREAM_RESET = ProblemKind("upstream-reset", 502, "Service broke the connection", "Try again shortly.")
UPSTREAM_PROTOCOL = ProblemKind(
    "upstream-protocol",
    502,
    "Service sent a malformed response",
    "Report the request id to the service's team.",
)
UPSTREAM_TOO_LARGE = ProblemKind(
    "upstream-too-large",
    502,
    "Service's message too large",
    "Ask for less at once; operators raise `max_message` of the service.",
)
UPSTREAM_BUSY = ProblemKind("upstream-busy", 503, "Service at capacity", "Wait as long as Retry-After says.")
UPSTREAM_OPEN = ProblemKind("upstream-open", 503, "Service failing", "Wait as long as Retry-After says.")
UPSTREAM_CONNECT_TIMEOUT = ProblemKind(
    "upstream-connect-timeout", 504, "Service did not accept in time", "Try again shortly."
)
UPSTREAM_TIMEOUT = ProblemKind(
    "upstream-timeout", 504, "Service did not answer in time", "Try again shortly."
)
DISPATCH_FAILED = ProblemKind(
    "dispatch-failed",
    502,
    "Alert not delivered",
    "Dispatch it again with the same alert_id: every channel failed, for the reasons that `results` gives.",
)
GEOCODE_BUSY = ProblemKind(
    "geocode-busy",
    503,
    "Too many addresses to look up",
    "Wait as long as Retry-After says: addresses that were not asked for lately are looked up one a second.",
)
GEOCODE_FAILED = ProblemKind(
    "geocode-failed", 502, "Geocoding service failed", "Try again later; known addresses are still answered."
)

# --- GraphQL -----------------------------------------------------------------------------------------------------
GRAPHQL_SYNTAX = ProblemKind(
    "graphql-syntax", 400, "GraphQL document malformed", "Correct the document at the place that is named."
)
GRAPHQL_INVALID = ProblemKind(
    "graphql-invalid",
    422,
    "GraphQL request invalid",
    "Correct the request at the place that is named.",
)
GRAPHQL_TOO_COMPLEX = ProblemKind(
    "graphql-too-complex", 422, "GraphQL request too complex", "Ask for less at once: the limit is named."
)
GRAPHQL_BATCH = ProblemKind(
    "graphql-batch", 400, "GraphQL batches not served", "Send one operation a request, as one JSON object."
)
GRAPHQL_MEDIA_TYPE = ProblemKind(
    "graphql-media-type", 415, "GraphQL is sent as JSON", "Send 'Content-Type: application/json'."
)
GRAPHQL_NOT_ACCEPTABLE = ProblemKind(
    "graphql-not-acceptable",
    406,
    "GraphQL is answered as JSON",
    "Accept application/graphql-response+json or application/json; text/event-stream for subscriptions.",
)
GRAPHQL_BY_GET = ProblemKind(
    "graphql-by-get",
    405,
    "Only queries go by GET",
    "Send mutations with POST.",
)
GRAPHQL_UNAVAILABLE = ProblemKind(
    "graphql-unavailable", 503, "No GraphQL schema yet", "Try again shortly: the services are being asked."
)
GRAPHQL_ANSWER = ProblemKind(
    "graphql-answer",
    502,
    "Service's answer does not fit its document",
    "Report the request id to the service's team.",
)
GRAPHQL_REFUSED = ProblemKind(
    "graphql-refused",
    502,
    "Service refused the request",
    "See `status` and `detail`: they are the service's.",
)
GRAPHQL_TOO_LARGE = ProblemKind(
    "graphql-too-large", 502, "GraphQL answer too large", "Select fewer fields, or smaller pages."
)
GRAPHQL_TIMEOUT = ProblemKind(
    "graphql-timeout", 504, "GraphQL operation took too long", "Ask for less at once, or try again."
)
INTERNAL = ProblemKind("internal", 500, "Internal error", "Report the request id to the platform team.")

# --- what services that speak gRPC answer: the HTTP status of each of its codes (google/rpc/code.proto) -------------------
_CORRECT = "Correct what the detail and `details` name."
_REPORT = "Report the request id to the service's team."
GRPC_KINDS: dict[str, ProblemKind] = {
    name: ProblemKind(f"grpc-{name.lower().replace('_', '-')}", status, title, remedy)
    for name, status, title, remedy in (
        ("CANCELLED", 499, "Service cancelled the call", "Try again."),
        ("UNKNOWN", 500, "Service failed", _REPORT),
        ("INVALID_ARGUMENT", 400, "Invalid argument", _CORRECT),
        ("DEADLINE_EXCEEDED", 504, "Service did not finish in time", "Try again shortly, or ask for less."),
        ("NOT_FOUND", 404, "Not found", "Check the ids in the path: the service knows no such thing."),
        ("ALREADY_EXISTS", 409, "Already exists", "Change what is there, or choose another id."),
        ("PERMISSION_DENIED", 403, "Permission denied", "The service does not allow this to the caller."),
        (
            "RESOURCE_EXHAUSTED",
            429,
            "Service's limit reached",
            "Wait as long as Retry-After says, if it is there.",
        ),
        (
            "FAILED_PRECONDITION",
            400,
            "Failed precondition",
            "Bring about the state that the detail asks for.",
        ),
        ("ABORTED", 409, "Aborted", "Read the present state and try the whole change again."),
        ("OUT_OF_RANGE", 400, "Out of range", _CORRECT),
        ("UNIMPLEMENTED", 501, "Not implemented", "The service does not offer this."),
        ("INTERNAL", 500, "Service failed", _REPORT),
        ("UNAVAILABLE", 503, "Service unavailable", "Try again shortly."),
        ("DATA_LOSS", 500, "Data lost", _REPORT),
        (
            "UNAUTHENTICATED",
            401,
            "Service wants credentials",
            "The service does not accept the caller's credentials.",
        ),
    )
}
