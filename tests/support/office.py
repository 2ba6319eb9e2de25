"""The tenant and the demo-session service as far as the gateway itself asks them, with answers that a test sets."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.support.recorder import Recorder, Seen

_HIERARCHY = re.compile(r"/api/v1/tenants/([^/]+)/hierarchy")
_SUBSCRIPTION = re.compile(r"/api/v1/tenants/([^/]+)/subscription")
_VERIFY = re.compile(r"/api/v1/tenants/([^/]+)/verify")
_SESSION = re.compile(r"/api/v1/demo/sessions/([^/]+)")


def stamp(moment: float) -> str:
    """RFC 3339 of Unix seconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Office:
    """Plugged into a recorder: `Office.behind(recorder)`. What is asked is in `calls`, echoes stay with the recorder."""

    # Tenant -> its ancestors, nearest first.
    ancestors: dict[str, list[str]] = field(default_factory=dict)
    # Tenant -> its subscription.
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Operations that nobody may do, with the reason.
    denied: dict[str, str] = field(default_factory=dict)
    # Session id -> the document.
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Instead of an answer; 0 breaks the connection.
    status: int = 200
    # Instead of every document.
    garbage: Any = None
    calls: list[Seen] = field(default_factory=list)

    @classmethod
    def behind(cls, recorder: Recorder) -> Office:
        office = cls()
        recorder.answer = office.answer
        return office

    def session(self, name: str, tenant: str, *, lasts: float = 600.0, **changes: Any) -> str:
        """Begin a session and return its id."""
        self.sessions[name] = {
            "session_id": name,
            "account_type": "individual_bakery",
            "virtual_tenant_id": tenant,
            "status": "active",
            "created_at": stamp(time.time()),
            "expires_at": stamp(time.time() + lasts),
            "subscription": {
                "tier": "professional",
                "status": "active",
                "valid_until": stamp(time.time() + 9e5),
            },
            **changes,
        }
        return name

    def asked(self, what: str) -> int:
        """How many calls had `what` in their target."""
        return sum(what.encode() in call.target for call in self.calls)

    def answer(self, seen: Seen) -> tuple[int, Any] | None:
        """What the recorder is to answer; None for what was proxied."""
        if not seen.header("authorization") or seen.header("x-user-id"):
            return None
        target = seen.target.decode()
        found = self._document(seen, target)
        if found is None:
            return None
        self.calls.append(seen)
        if self.status != 200:
            return self.status, {}
        return found if self.garbage is None else (200, self.garbage)

    def _document(self, seen: Seen, target: str) -> tuple[int, Any] | None:
        if match := _HIERARCHY.fullmatch(target):
            above = self.ancestors.get(match[1])
            return (
                (404, {})
                if above is None
                else (200, {"tenant_id": match[1], "ancestors": above, "children": []})
            )
        if _VERIFY.fullmatch(target):
            operation = json.loads(seen.body)["operation"]
            reason = self.denied.get(operation, "")
            return 200, {"allowed": not reason, "reason": reason, "subscription": {}}
        if (match := _SUBSCRIPTION.fullmatch(target)) and seen.method == "GET":
            plan = self.plans.get(match[1])
            return (404, {}) if plan is None else (200, plan)
        if match := _SESSION.fullmatch(target):
            document = self.sessions.get(match[1])
            return (404, {}) if document is None else (200, document)
        return None
