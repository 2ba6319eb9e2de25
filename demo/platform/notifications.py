"""The stub notification service: takes messages for e-mail and WhatsApp, and says that they were delivered.

POST /api/v1/notifications   {"channel": "email" | "whatsapp", "message", ...} -> 201; with an `Idempotency-Key` that was
                             seen before: 200 and the first one's row
"""

from __future__ import annotations

from demo.platform.collection import Collection
from demo.platform.messages import Refusal, Request, Response, reply, text
from demo.platform.service import Service, tenant_of

CHANNELS = ("email", "whatsapp")
_MOST_KEYS = 4096


class Notifications:
    """`sent` keeps each tenant's messages."""

    def __init__(self, service: Service, sent: Collection) -> None:
        self._sent = sent
        # (tenant, key) -> the row's id.
        self._keys: dict[tuple[str, str], str] = {}
        # Before the collection's own: the first that matches answers.
        service.add("POST", "", self._send, "Send a message", 201)
        sent.serve(service, "")

    async def _send(self, request: Request) -> Response:
        tenant = tenant_of(request)
        document = await request.json()
        if not tenant:
            raise Refusal(400, "tenant-missing", "Say for which tenant: x-tenant-id.")
        channel, _ = text(document, "channel"), text(document, "message")
        if channel not in CHANNELS:
            raise Refusal(422, "field-invalid", f"'channel' must be one of {', '.join(CHANNELS)}.")
        key = request.header("idempotency-key")
        known = self._sent.rows(tenant).get(self._keys.get((tenant, key), "")) if key else None
        if known is not None:
            return reply(known)
        row = self._sent.insert(tenant, {**document, "status": "delivered"})
        if key:
            if len(self._keys) >= _MOST_KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[tenant, key] = row["id"]
        return reply(row, 201, (("location", f"{request.path.rstrip('/')}/{row['id']}"),))
