"""Training jobs of the stub training service: each goes through its stages in a few seconds, by the clock alone.

POST /api/v1/training/jobs        {"product"?, "seconds"?} -> 202, the job
GET  /api/v1/training/jobs        the tenant's jobs
GET  /api/v1/training/jobs/{id}   {"status": "running" | "completed", "stage", "progress": 0..100, ...}
WS   /api/v1/training/ws          {"train": product, "seconds"?} starts a job and tells of its progress until it is done;
                                  what is no such thing comes back as it is
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from demo.platform.collection import Collection, Row
from demo.platform.messages import Refusal, Request, Response, reply
from demo.platform.service import Service, tenant_of
from demo.platform.sockets import Socket

_STAGES = ("loading sales", "cleaning", "adding weather and holidays", "fitting", "evaluating")
_SECONDS = 20.0


class Training:
    """`jobs` keeps each tenant's jobs."""

    def __init__(self, service: Service, jobs: Collection) -> None:
        self._jobs = jobs
        service.add("POST", "/jobs", self._start, "Start a training job", 202)
        service.add("GET", "/jobs", self._list, "List training jobs")
        service.add("GET", "/jobs/{id}", self._read, "Read a training job")
        service.add_socket("/ws", self._talk)

    async def _start(self, request: Request) -> Response:
        tenant = tenant_of(request)
        document = await request.json()
        seconds = document.get("seconds", _SECONDS)
        if not tenant:
            raise Refusal(400, "tenant-missing", "Say for which tenant: x-tenant-id.")
        if not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
            raise Refusal(422, "field-invalid", "'seconds' must be a number from 0 to 3600.")
        product = str(document.get("product") or "Croissant de mantequilla")
        job = self._jobs.insert(tenant, {"product": product, "started": time.time(), "seconds": seconds})
        return reply(_shown(job), 202, (("location", f"{request.path}/{job['id']}"),))

    async def _talk(self, socket: Socket) -> None:
        while True:
            message = await socket.receive()
            order = _order(message)
            if order is None:
                await socket.send(message)
                continue
            product, seconds = order
            job = self._jobs.insert(
                socket.request.header("x-tenant-id"),
                {"product": product, "started": time.time(), "seconds": seconds},
            )
            last: dict[str, Any] = {}
            while last.get("status") != "completed":
                now = _shown(job)
                if now != last:
                    await socket.send(json.dumps(now, ensure_ascii=False))
                    last = now
                await asyncio.sleep(min(0.2, max(seconds / 20, 0.001)))

    def _list(self, request: Request) -> Response:
        rows = [_shown(job) for job in self._jobs.rows(tenant_of(request)).values()]
        return reply({"items": rows, "total": len(rows), "limit": len(rows), "offset": 0, "next": None})

    def _read(self, request: Request) -> Response:
        return reply(_shown(self._jobs.find(request)))


def _order(message: str | bytes) -> tuple[str, float] | None:
    """(product, seconds) of a message that starts a job."""
    try:
        order = json.loads(message)
        product, seconds = order["train"], float(order.get("seconds", 5))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (str(product), seconds) if 0 <= seconds <= 3600 else None


def _shown(job: Row) -> dict[str, Any]:
    elapsed, seconds = time.time() - job["started"], job["seconds"]
    done = elapsed >= seconds
    progress = 100 if done else int(100 * elapsed / seconds)
    return {
        "id": job["id"],
        "tenant_id": job["tenant_id"],
        "product": job["product"],
        "status": "completed" if done else "running",
        "stage": "done" if done else _STAGES[progress * len(_STAGES) // 100],
        "progress": progress,
    }
