"""The stub demo-session service: throw-away bakeries for people who want to look around.

    POST   /api/v1/demo/sessions        {"account_type"?, "ttl_seconds"?} -> 201, the session; open to everyone
    GET    /api/v1/demo/sessions/{id}   the session, for services; 404 when it never was, "expired" when it is over
    POST   /api/v1/demo/sessions/{id}/extend   30 more minutes, for services
    DELETE /api/v1/demo/sessions/{id}   ends it, for services

A session: {"session_id", "account_type", "virtual_tenant_id", "status": "active" | "expired", "created_at",
"expires_at", "subscription"}. Creating one also sets the cookie `demo_session_id`. Its tenant has data like any other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from demo.platform.messages import Refusal, Request, Response, reply
from demo.platform.service import Service
from demo.platform.tokens import Keys
from demo.platform.world import World, stamp

ACCOUNT_TYPES = {"individual_bakery": "professional", "enterprise": "enterprise"}
COOKIE = "demo_session_id"
_LIFETIME_SECONDS = 30 * 60


class Session(Struct):
    """Times are aware, in UTC."""

    id: str
    account_type: str
    tenant_id: str
    created_at: datetime
    expires_at: datetime


class DemoSessions:
    """`forget` is called with the virtual tenant of a session that was ended."""

    def __init__(self, service: Service, world: World, keys: Keys, forget: Callable[[str], None]) -> None:
        self._world = world
        self._keys = keys
        self._forget = forget
        self._sessions: dict[str, Session] = {}
        service.add("POST", "/sessions", self._create, "Start a demo session", 201)
        service.add("GET", "/sessions/{id}", self._read, "Read a demo session; for services")
        service.add("POST", "/sessions/{id}/extend", self._extend, "Prolong a demo session; for services")
        service.add("DELETE", "/sessions/{id}", self._end, "End a demo session; for services", 204)

    async def _create(self, request: Request) -> Response:
        document = await request.json()
        account_type = document.get("account_type", "individual_bakery")
        if account_type not in ACCOUNT_TYPES:
            raise Refusal(422, "field-invalid", f"'account_type' is one of {', '.join(ACCOUNT_TYPES)}.")
        seconds = document.get("ttl_seconds", _LIFETIME_SECONDS)
        if not isinstance(seconds, int | float) or not 0 < seconds <= _LIFETIME_SECONDS:
            raise Refusal(422, "field-invalid", f"'ttl_seconds' is more than 0, at most {_LIFETIME_SECONDS}.")
        tenant = self._world.found("Panadería de Demostración", "demo", tier=ACCOUNT_TYPES[account_type])
        tenant.status = "active"
        self._world.seeded.add(tenant.id)
        now = datetime.now(UTC)
        session = Session(
            f"demo_{uuid.uuid4().hex}", account_type, tenant.id, now, now + timedelta(seconds=seconds)
        )
        self._sessions[session.id] = session
        cookie = f"{COOKIE}={session.id}; Path=/; Max-Age={int(seconds)}; HttpOnly; SameSite=Lax"
        return reply(self._shown(session), 201, (("set-cookie", cookie),))

    def _read(self, request: Request) -> Response:
        return reply(self._shown(self._named(request)))

    def _extend(self, request: Request) -> Response:
        session = self._named(request)
        session.expires_at = datetime.now(UTC) + timedelta(seconds=_LIFETIME_SECONDS)
        return reply(self._shown(session))

    def _end(self, request: Request) -> Response:
        session = self._named(request)
        del self._sessions[session.id]
        self._world.tenants.pop(session.tenant_id, None)
        self._forget(session.tenant_id)
        return Response(204)

    def _named(self, request: Request) -> Session:
        self._keys.require_service(request)
        try:
            return self._sessions[request.params["id"]]
        except KeyError:
            raise Refusal(404, "demo-session-unknown", "No such demo session.") from None

    def _shown(self, session: Session) -> dict[str, object]:
        expired = datetime.now(UTC) >= session.expires_at
        return {
            "session_id": session.id,
            "account_type": session.account_type,
            "virtual_tenant_id": session.tenant_id,
            "status": "expired" if expired else "active",
            "created_at": stamp(session.created_at),
            "expires_at": session.expires_at.isoformat().replace("+00:00", "Z"),
            "subscription": self._world.tenant(session.tenant_id).subscription(),
        }
