"""Training jobs of the stub training service: each goes through its stages in a few seconds, by the clock alone.

POST /api/v1/training/jobs        {"product"?, "seconds"?} -> 202, the job
GET  /api/v1/training/jobs        the tenant's jobs
GET  /api/v1/training/jobs/{id}   {"status": "running" | "completed", "stage", "progress": 0..100, ...}
"""

from __future__ import annotations

import time
from typing import Any

from bench.platform.collection import Collection, Row
from bench.platform.messages import Refusal, Request, Response, reply
from bench.platform.service import Service, tenant_of

_STAGES = ("loading sales", "cleaning", "adding weather and holidays", "fitting", "evaluating")
_SECONDS = 20.0


class Training:
    """`jobs` keeps each tenant's jobs."""

    def __init__(self, service: Service, jobs: Collection) -> None:
        self._jobs = jobs
        service.add("POST", "/jobs", self._start, "Start a training job", 202)
        service.add("GET", "/jobs", self._list, "List training jobs")
        service.add("GET", "/jobs/{id}", self._read, "Read a training job")

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

    def _list(self, request: Request) -> Response:
        rows = [_shown(job) for job in self._jobs.rows(tenant_of(request)).values()]
        return reply({"items": rows, "total": len(rows), "limit": len(rows), "offset": 0, "next": None})

    def _read(self, request: Request) -> Response:
        return reply(_shown(self._jobs.find(request)))


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
