"""What a service is sent in place of what came, and what its clients are told in place of what it said.

Every policy has decided by then, on what came; the log has that, too. Only proxied rows get here, each with what
kernel/config/forwarding.py found sound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.exchange.asgi import HeaderList, Message
from kernel.exchange.exchange import Exchange, Handler
from kernel.routing.catalog import RouteRow

Path = Callable[[bytes, tuple[bytes, ...]], bytes]


def forwarded(row: RouteRow, handler: Handler) -> Handler:
    """`handler` with what `row` says of paths and headers."""
    if row.response_headers:
        handler = _answering(row.response_headers, handler)
    if row.set_headers or row.remove_headers:
        handler = _telling(row.set_headers, row.remove_headers, handler)
    if row.rewrite:
        handler = _leading(path_of(row.pattern, row.rewrite), strips(row), handler)
    return handler


def path_of(pattern: str, template: str) -> Path:
    """Makes the path to send of a raw path that `pattern` matched and its parameters.

    SECURITY: parameters are put in as they came. The router has refused what a service could read as more than one segment:
    dot segments, empty ones, an encoded slash unless the route allows it (and then it stays encoded), NUL, CR and LF, bare or
    encoded; a path has no '?' or '#' that is not encoded.
    """
    given = pattern.split("/")
    names = [segment[1:-1] for segment in given if segment.startswith("{")]
    wanted = template.split("/")
    rest = wanted[-1] == "**"
    if rest:
        wanted.pop()
    order = [names.index(segment[1:-1]) for segment in wanted if segment.startswith("{")]
    form = "/".join("%b" if s.startswith("{") else s.replace("%", "%%") for s in wanted).encode()
    as_they_are = order == list(range(len(names)))
    # Of the path, with an empty one before its first slash: the segments before the rest.
    before = len(given) - 1

    def path(raw: bytes, params: tuple[bytes, ...]) -> bytes:
        made = form % (params if as_they_are else tuple([params[place] for place in order]))
        if rest:
            parts = raw.split(b"/", before)
            if len(parts) > before:
                return made + b"/" + parts[before]
        return made or b"/"

    return path


def strips(row: RouteRow) -> bool:
    """Whether what is sent is the end of what came: a service may then be told what was taken off."""
    return row.pattern.endswith(row.rewrite) or row.rewrite == "/"


def _leading(path: Path, stripping: bool, handler: Handler) -> Handler:
    """`handler`, with another path to send. What is stripped is in `x-forwarded-prefix`, by which frameworks make links."""

    def handle(x: Exchange) -> Awaitable[None] | None:
        raw = x.raw_path
        x.target = target = path(raw, x.params)
        if stripping:
            x.context += b"x-forwarded-prefix: %b\r\n" % raw.removesuffix(target)
        return handler(x)

    return handle


def _telling(setting: tuple[tuple[str, str], ...], removing: tuple[str, ...], handler: Handler) -> Handler:
    """`handler`, with header lines set, or the client's removed, in each spelling that services may take for the same.

    They are set beside the gateway's own, not among the client's lines: from those, its `Connection` could remove them.
    """
    block = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in setting)
    gone = frozenset(name.replace("_", "-").encode() for name in (*removing, *dict(setting)))

    def handle(x: Exchange) -> Awaitable[None] | None:
        x.lines = [line for line in x.lines if line.partition(b":")[0].replace(b"_", b"-") not in gone]
        x.context += block
        return handler(x)

    return handle


def _answering(changes: tuple[tuple[str, str], ...], handler: Handler) -> Handler:
    """`handler`, with headers of the service's answer set or removed; a problem of the gateway's is left alone."""
    gone = frozenset(name.encode() for name, _ in changes)
    added = [(name.encode(), value.encode()) for name, value in changes if value]

    def handle(x: Exchange) -> Awaitable[None] | None:
        send = x.send

        def changed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and not x.problem_code:
                headers: HeaderList = message["headers"]
                # The last ones are the gateway's own.
                own = len(headers) - len(x.extra) - len(x.limits or ())
                kept = [pair for pair in headers[:own] if pair[0] not in gone]
                message["headers"] = [*kept, *added, *headers[own:]]
            return send(message)

        x.send = changed
        return handler(x)

    return handle
