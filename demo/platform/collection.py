"""A REST collection in memory, one set of rows per tenant: list, read, create, change, delete."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from demo.platform.messages import Refusal, Request, Response, reply
from demo.platform.service import Service, tenant_of

Row = dict[str, Any]

# A tenant's first rows, from a source of chance; a row's "slug" makes its id, else its number does.
Seed = Callable[[random.Random], Iterable[Row]]

_MAX_PAGE = 200
_RESERVED = {"id", "tenant_id"}


class Collection:
    """Rows of one kind. A tenant's first rows are made when somebody asks, always the same ones for that tenant."""

    def __init__(
        self, name: str, required: tuple[str, ...], seed: Seed, seeded: Callable[[str], bool]
    ) -> None:
        self.name = name
        self.required = required
        self._seed = seed
        self._seeded = seeded
        self._rows: dict[str, dict[str, Row]] = {}

    def rows(self, tenant: str) -> dict[str, Row]:
        """The rows of `tenant` by id. Only tenants the platform began with have any from the start."""
        rows = self._rows.get(tenant)
        if rows is None:
            rows = self._rows[tenant] = {}
            if self._seeded(tenant):
                # Chance seeded by name: the same tenant has the same data on every start.
                for number, row in enumerate(self._seed(random.Random(f"{tenant}/{self.name}"))):
                    slug = row.pop("slug", number)
                    key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{self.name}/{slug}"))
                    rows[key] = {"id": key, "tenant_id": tenant, **row}
        return rows

    def drop(self, tenant: str) -> None:
        """Forgets a tenant that was deleted."""
        self._rows.pop(tenant, None)

    def insert(self, tenant: str, row: Row) -> Row:
        """Adds `row` under a new id."""
        key = str(uuid.uuid4())
        made = {"id": key, "tenant_id": tenant, **{k: v for k, v in row.items() if k not in _RESERVED}}
        self.rows(tenant)[key] = made
        return made

    def find(self, request: Request) -> Row:
        """The row the path names, of the caller's tenant only; a 404 `Refusal` when there is none."""
        key = request.params["id"]
        tenant = tenant_of(request)
        for rows in [self.rows(tenant)] if tenant else list(self._rows.values()):
            if key in rows:
                return rows[key]
        raise Refusal(404, "item-unknown", f"No {self.name} item {key!r} in this tenant.")

    def page(self, request: Request) -> dict[str, Any]:
        """?limit= and ?offset=; any other parameter keeps the rows whose field has that value."""
        limit = request.number("limit", 20, 1, _MAX_PAGE)
        offset = request.number("offset", 0, 0, 1 << 31)
        tenant = tenant_of(request)
        sets = [self.rows(tenant)] if tenant else list(self._rows.values())
        wanted = {k: v for k, v in request.arguments().items() if k not in ("limit", "offset")}
        rows = [row for rows in sets for row in rows.values() if _matches(row, wanted)]
        following = None
        if offset + limit < len(rows):
            following = f"{request.path}?limit={limit}&offset={offset + limit}"
        page = rows[offset : offset + limit]
        return {"items": page, "total": len(rows), "limit": limit, "offset": offset, "next": following}

    def list(self, request: Request) -> Response:
        """A page."""
        return reply(self.page(request))

    def read(self, request: Request) -> Response:
        """One row."""
        return reply(self.find(request))

    async def create(self, request: Request) -> Response:
        """A new row: 201 with its Location."""
        tenant = tenant_of(request)
        if not tenant:
            raise Refusal(400, "tenant-missing", "Say for which tenant: x-tenant-id.")
        document = await request.json()
        missing = [name for name in self.required if document.get(name) in (None, "")]
        if missing:
            raise Refusal(422, "field-missing", f"Missing: {', '.join(missing)}.")
        row = self.insert(tenant, document)
        return reply(row, 201, (("location", f"{request.path.rstrip('/')}/{row['id']}"),))

    async def change(self, request: Request) -> Response:
        """PATCH changes the fields it is given; PUT replaces them all."""
        row = self.find(request)
        document = {k: v for k, v in (await request.json()).items() if k not in _RESERVED}
        if request.method == "PUT":
            missing = [name for name in self.required if document.get(name) in (None, "")]
            if missing:
                raise Refusal(422, "field-missing", f"Missing: {', '.join(missing)}.")
            for name in [name for name in row if name not in _RESERVED]:
                del row[name]
        row.update(document)
        return reply(row)

    def delete(self, request: Request) -> Response:
        """204."""
        row = self.find(request)
        del self.rows(row["tenant_id"])[row["id"]]
        return Response(204)

    def serve(self, service: Service, suffix: str) -> None:
        """Adds the collection's routes to `service` at `suffix`, such as "/items"."""
        name = self.name
        service.add("GET", suffix, self.list, f"List {name}", rows=name)
        service.add("POST", suffix, self.create, f"Create in {name}", 201, rows=name)
        service.add("GET", suffix + "/{id}", self.read, f"Read one of {name}", rows=name)
        service.add("PUT PATCH", suffix + "/{id}", self.change, f"Change one of {name}", rows=name)
        service.add("DELETE", suffix + "/{id}", self.delete, f"Delete one of {name}", 204, rows=name)


def _matches(row: Row, wanted: dict[str, str]) -> bool:
    return all(str(row.get(name)) == value for name, value in wanted.items())
