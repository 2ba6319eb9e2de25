"""The platform: its services and routes, as they are without a gateway.toml.

A new service is one `Service`, a new endpoint one `RouteRow`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernel.routing.catalog import (
    ALERT_STREAM,
    CHANGE_SUBSCRIPTION,
    DELETE_TENANT,
    DEMO_CREATED,
    LOGIN,
    LOGOUT,
    METHODS,
    READS,
    REFRESH,
    REGISTER,
    SUBSCRIPTION_CHANGED,
    WRITES,
    RouteRow,
    Service,
    service_rows,
)


def _service(name: str, *prefixes: str, tenant_scoped: bool = True) -> Service:
    env = name.upper().replace("-", "_") + "_SERVICE_URL"
    return Service(name, env, prefixes or (name,), tenant_scoped=tenant_scoped)


SERVICES: tuple[Service, ...] = (
    _service("auth", tenant_scoped=False),
    _service("tenant", "tenants", "tenant", tenant_scoped=False),
    _service("inventory"),
    _service("production"),
    _service("recipes"),
    _service("suppliers"),
    _service("orders"),
    _service("sales"),
    _service("procurement"),
    _service("pos"),
    _service("forecasting"),
    _service("training"),
    _service("ai-insights"),
    _service("orchestrator"),
    _service("notification", "notifications"),
    _service("alert-processor", "alerts"),
    _service("demo-session", "demo"),
    _service("external"),
    _service("distribution"),
)

# Who may hold a service token.
INTERNAL_SERVICES: frozenset[str] = frozenset({"gateway", *(service.name for service in SERVICES)})


_GET = frozenset({"GET"})
_POST = frozenset({"POST"})
_DELETE = frozenset({"DELETE"})
_PUT_DELETE = frozenset({"PUT", "DELETE"})

_OWN = (
    RouteRow(pattern="/health", methods=_GET, handler="health", public=True, exempt=True, direct=True),
    RouteRow(pattern="/health/live", methods=_GET, handler="live", public=True, exempt=True, direct=True),
    RouteRow(pattern="/health/ready", methods=_GET, handler="ready", public=True, exempt=True, direct=True),
    RouteRow(pattern="/api/v1/health", methods=_GET, handler="services", public=True, exempt=True),
    *(
        RouteRow(pattern=pattern, methods=_GET, handler=handler, public=True, always_writable=True)
        for pattern, handler in (
            ("/", "index"),
            ("/problems", "problems-index"),
            ("/problems/{code}", "problems"),
        )
    ),
    RouteRow(
        pattern="/.well-known/jwks.json",
        methods=_GET,
        handler="assertion-keys",
        public=True,
        always_writable=True,
    ),
    RouteRow(pattern="/metrics", methods=_GET, handler="metrics", admin=True, exempt=True, direct=True),
    RouteRow(pattern="/openapi.json", methods=_GET, handler="openapi", admin=True),
    RouteRow(pattern="/docs", methods=_GET, handler="docs", admin=True),
    RouteRow(pattern="/docs/{version}/{file}", methods=_GET, handler="docs-file", admin=True),
)

# Below a tenant too: EventSource cannot say X-Tenant-ID.
_ALERTS = tuple(
    row
    for scope in ("", "tenants/{tenant_id}/")
    for row in (
        RouteRow(
            pattern=f"/api/v1/{scope}alerts/stream",
            methods=_GET,
            handler=ALERT_STREAM,
            scope="alert-processor",
        ),
        RouteRow(
            pattern=f"/api/v1/{scope}alerts/ticket",
            methods=_POST,
            handler="alert-ticket",
            safe=True,
            max_body=4096,
        ),
    )
)

_DISPATCH = RouteRow(
    pattern="/api/v1/alerts/dispatch",
    methods=_POST,
    handler="alert-dispatch",
    service_only=True,
    safe=True,
    max_body=1024**2,
)

_GEOCODE = tuple(
    RouteRow(
        pattern=f"/api/v1/{path}",
        methods=_POST,
        handler=path.replace("/", "-"),
        scope="geocode",
        safe=True,
        max_body=8192,
    )
    for path in ("geocode", "geocode/reverse")
)

_AUTH = (
    *(
        RouteRow(
            pattern=f"/api/v1/auth/{action}",
            methods=_POST,
            service="auth",
            public=True,
            always_writable=True,
            attempts=action,
        )
        for action in (LOGIN, REGISTER, REFRESH)
    ),
    RouteRow(
        pattern="/api/v1/auth/logout",
        methods=_POST,
        service="auth",
        always_writable=True,
        effect=LOGOUT,
    ),
    RouteRow(pattern="/api/v1/auth/**", service="auth", always_writable=True),
)

_DEMO = (
    RouteRow(
        pattern="/api/v1/demo/sessions",
        methods=_POST,
        service="demo-session",
        public=True,
        effect=DEMO_CREATED,
    ),
    RouteRow(pattern="/api/v1/demo/sessions", methods=METHODS - _POST, service="demo-session"),
)

_TENANT = (
    RouteRow(pattern="/api/v1/tenants/**", service="tenant"),
    RouteRow(pattern="/api/v1/tenants/{tenant_id}/**", service="tenant"),
    # SECURITY: with and without the slash, since both may delete the same tenant.
    *(
        row
        for pattern in ("/api/v1/tenants/{tenant_id}", "/api/v1/tenants/{tenant_id}/")
        for row in (
            RouteRow(pattern=pattern, methods=_DELETE, service="tenant", critical=DELETE_TENANT),
            RouteRow(pattern=pattern, methods=METHODS - _DELETE, service="tenant"),
        )
    ),
    RouteRow(pattern="/api/v1/tenant/**", service="tenant"),
)

# SECURITY: looking at keys and taking them away works while writing is locked and without a subscription.
_API_KEYS = tuple(
    RouteRow(
        pattern=f"/api/v1/tenants/{{tenant_id}}/api-keys{rest}",
        methods=methods,
        handler=handler,
        always_writable=methods is not _POST,
        max_body=8192,
    )
    for rest, methods, handler in (
        ("", _GET, "api-keys"),
        ("", _POST, "api-keys"),
        ("/{key_id}", frozenset({"GET", "DELETE"}), "api-key"),
        ("/{key_id}/rotate", _POST, "api-key-rotate"),
    )
)

# What services tell the gateway.
_INTERNAL = tuple(
    RouteRow(
        pattern=f"/internal/v1/{path}",
        methods=methods,
        handler=handler,
        admin=True,
        service_only=True,
        max_body=8192 if path.startswith("api-keys") else 4096,
    )
    for path, methods, handler in (
        ("tenants/{tenant_id}/subscription-changed", _POST, "subscription-changed"),
        ("tenants/{tenant_id}/read-only", _PUT_DELETE, "read-only"),
        ("platform/read-only", _PUT_DELETE, "read-only"),
        ("api-keys", frozenset({"GET", "POST"}), "internal-api-keys"),
        ("api-keys/{key_id}", frozenset({"GET", "DELETE"}), "api-key"),
        ("api-keys/{key_id}/rotate", _POST, "api-key-rotate"),
    )
)


def _billing() -> Iterator[RouteRow]:
    """Where customers pay: `billing` has invoices and means of payment; a write to `subscription` changes rights."""
    yield RouteRow(pattern="/api/v1/tenants/{tenant_id}/billing/**", service="tenant", always_writable=True)
    for pattern in ("/api/v1/tenants/{tenant_id}/subscription/**", "/api/v1/subscriptions/**"):
        yield RouteRow(pattern=pattern, methods=READS, service="tenant", always_writable=True)
        yield RouteRow(
            pattern=pattern,
            methods=WRITES,
            service="tenant",
            always_writable=True,
            critical=CHANGE_SUBSCRIPTION,
            effect=SUBSCRIPTION_CHANGED,
        )


_SOCKETS = tuple(
    RouteRow(pattern=f"/api/v1/{scope}training/ws", methods=_GET, service="training", websocket=True)
    for scope in ("", "tenants/{tenant_id}/")
)

ROUTES: tuple[RouteRow, ...] = (
    *_OWN,
    *_ALERTS,
    _DISPATCH,
    *_GEOCODE,
    *_SOCKETS,
    *_AUTH,
    *_DEMO,
    *(row for service in SERVICES if service.tenant_scoped for row in service_rows(service)),
    *_TENANT,
    *_API_KEYS,
    *_billing(),
    *_INTERNAL,
)
