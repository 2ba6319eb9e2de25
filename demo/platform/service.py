"""A stub service: its routes, its dispatch, and the rules by which it trusts what the gateway tells it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from urllib.parse import unquote

from demo.platform.messages import Handler, Refusal, Request, Response
from demo.platform.server import Server, SocketHandler

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Route:
    """One operation, as the service's OpenAPI document shows it. `methods` empty: any method.

    `rows` names the collection whose rows it takes and answers with; None: it is a helper that no document shows.
    """

    __slots__ = ("handler", "methods", "pattern", "rows", "status", "summary")

    def __init__(
        self,
        methods: tuple[str, ...],
        pattern: str,
        handler: Handler,
        summary: str,
        status: int,
        rows: str | None,
    ) -> None:
        self.methods = methods
        self.pattern = pattern
        self.handler = handler
        self.rows = rows
        self.summary = summary
        self.status = status


class _Node:
    __slots__ = ("any", "child", "literal", "name", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.child: _Node | None = None
        self.name = ""
        self.rest: list[Route] = []
        self.any: list[Route] = []


class Service:
    """One of the platform's services, on a port of its own.

    Every path that starts with one of `prefixes` is served as `<base>/<prefix>...` and, for the tenant in the path,
    as `<base>/tenants/{tenant_id}/<prefix>...`; there by the service's own name too.
    """

    def __init__(self, name: str, *prefixes: str, base: str = "/api/v1") -> None:
        self.name = name
        self.base = base
        self.prefixes = prefixes or (name,)
        self.routes: list[Route] = []
        self.server = Server(self._dispatch, self._upgrade)
        self._sockets: dict[str, SocketHandler] = {}
        self._root = _Node()

    @property
    def variable(self) -> str:
        """The environment variable by which the gateway is told this service's URL."""
        return self.name.upper().replace("-", "_") + "_SERVICE_URL"

    def add(
        self,
        methods: str,
        suffix: str,
        handler: Handler,
        summary: str,
        status: int = 200,
        *,
        rows: str | None = "",
    ) -> None:
        """Serves `methods` (such as "GET" or "PUT PATCH"; "" = any) at `suffix` under each prefix."""
        for prefix in self.prefixes:
            self.add_path(methods, f"{self.base}/{prefix}{suffix}", handler, summary, status, rows=rows)
        for segment in dict.fromkeys((*self.prefixes, self.name)):
            pattern = f"{self.base}/tenants/{{tenant_id}}/{segment}{suffix}"
            self.add_path(methods, pattern, handler, summary, status, rows=rows)

    def add_path(
        self,
        methods: str,
        pattern: str,
        handler: Handler,
        summary: str,
        status: int = 200,
        *,
        rows: str | None = "",
    ) -> None:
        """Serves `pattern` as it is: `{name}` matches one segment, a trailing `**` any rest."""
        route = Route(tuple(methods.split()), pattern, handler, summary, status, rows)
        self.routes.append(route)
        node = self._root
        for segment in pattern[1:].split("/"):
            if segment == "**":
                node.rest.append(route)
                return
            if segment.startswith("{"):
                node.child = node.child or _Node()
                node.child.name = segment[1:-1]
                node = node.child
            else:
                node = node.literal.setdefault(segment, _Node())
        node.any.append(route)

    def add_socket(self, suffix: str, handler: SocketHandler) -> None:
        """Serves a WebSocket at `suffix` under each prefix, and below each tenant."""
        for prefix in self.prefixes:
            self._sockets[f"/{prefix}{suffix}"] = handler

    def _upgrade(self, request: Request) -> SocketHandler | None:
        head, _, rest = request.path.removeprefix("/api/v1").partition("/tenants/")
        return self._sockets.get(head or "/" + rest.partition("/")[2])

    def _dispatch(self, request: Request) -> Response | Awaitable[Response]:
        # As most frameworks do, one way or another: "/sales/" is "/sales".
        segments = request.path.removesuffix("/")[1:].split("/")
        allowed: set[str] = set()
        for routes, params in _walk(self._root, segments, 0):
            for route in routes:
                if _serves(route, request.method):
                    request.params = params
                    return route.handler(request)
                allowed.update(route.methods)
        if allowed:
            detail = f"{request.method} is not served here."
            raise Refusal(405, "method-not-allowed", detail, (("allow", ", ".join(sorted(allowed))),))
        raise Refusal(404, "path-unknown", f"{self.name} has nothing at {request.path}.")


def _walk(node: _Node, segments: list[str], at: int) -> Iterator[tuple[list[Route], dict[str, str]]]:
    """Every matching leaf, the most literal first."""
    if at == len(segments):
        yield node.any, {}
    else:
        segment = segments[at]
        literal = node.literal.get(segment)
        if literal is not None:
            yield from _walk(literal, segments, at + 1)
        if node.child is not None and segment:
            for routes, params in _walk(node.child, segments, at + 1):
                yield routes, {node.child.name: unquote(segment), **params}
    yield node.rest, {}


def _serves(route: Route, method: str) -> bool:
    return not route.methods or method in route.methods or (method == "HEAD" and "GET" in route.methods)


def tenant_of(request: Request) -> str:
    """The tenant the gateway vouches for; "" for a service token that names none (it may read across tenants).

    SECURITY: the tenant in the path is only believed when the gateway's header agrees with it.
    """
    tenant = request.header("x-tenant-id")
    named = request.params.get("tenant_id", tenant)
    if is_service(request) and not tenant:
        return named
    if not tenant:
        raise Refusal(403, "tenant-missing", "No x-tenant-id: call this service through the gateway.")
    if named != tenant:
        raise Refusal(403, "tenant-mismatch", "The path's tenant is not the one the gateway vouches for.")
    return tenant


def is_service(request: Request) -> bool:
    """Whether the gateway says that another service is calling."""
    return request.header("x-user-type") == "service"
