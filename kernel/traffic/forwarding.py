"""What a service is sent in place of what came, and what its clients are told in place of what it said.

Every policy has decided by then, on what came; the log has that, too. Only proxied rows get here, each with what
kernel/config/forwarding.py found sound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.exchange.asgi import HeaderList, Message
from kernel.exchange.exchange import Exchange, Handler
from kernel.routing.catalog import RouteRow

_REFERENCES = frozenset({b"location", b"content-location"})
_SLASHES = frozenset({b"/", b"\\"})
Path = Callable[[bytes, tuple[bytes, ...]], bytes]


def forwarded(row: RouteRow, handler: Handler) -> Handler:
    """`handler` with what `row` says of paths and headers."""
    changes = (*row.response_headers, *_told_of_life(row))
    if changes:
        handler = _answering(changes, handler)
    if row.set_headers or row.remove_headers:
        handler = _telling(row.set_headers, row.remove_headers, handler)
    if row.rewrite:
        handler = _leading(row, handler)
    return handler


def _told_of_life(row: RouteRow) -> tuple[tuple[str, str], ...]:
    """What the gateway tells of the end of the row's version, and a service must not tell beside it: each is one item."""
    life = row.life
    if life is None or row.websocket:
        return ()
    told = {"deprecation": life.deprecated, "sunset": life.sunset}
    return tuple((name, "") for name, moment in told.items() if moment is not None)


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


def start_of(pattern: str, template: str) -> bytes | None:
    """What stands in `template` for the beginning of `pattern`, the rest being the same in both.

    None when it has variables, or the rest is not sent.
    """
    if pattern.endswith("**") and not template.endswith("**"):
        return None
    given, wanted = pattern.split("/"), template.split("/")
    while wanted and given and wanted[-1] == given[-1] and len(wanted) > 1:
        wanted.pop()
        given.pop()
    start = "/".join(wanted)
    return None if "{" in start else start.rstrip("/").encode()


def home(value: bytes, start: bytes, prefix: bytes) -> bytes:
    """A reference by which a service means a path of its own, as clients reach it: `prefix` in place of `start`.

    SECURITY: what browsers take for another host's (two slashes in front, or a backslash) neither comes in nor goes out.
    """
    rest = value[len(start) :]
    if not value.startswith(start + b"/") and (value != start or not start):
        return value
    if value[1:2] in _SLASHES or (prefix and (value == prefix or value.startswith(prefix + b"/"))):
        return value  # another host's; or made with the prefix by who knows of it
    found = prefix + rest
    return value if found[1:2] in _SLASHES else found


def _leading(row: RouteRow, handler: Handler) -> Handler:
    """`handler`, with another path to send. What is stripped is in `x-forwarded-prefix`, by which frameworks make links; of a
    path that the service refers to by itself (RFC 9110 sections 8.7, 10.2.2) clients are told theirs."""
    path = path_of(row.pattern, row.rewrite)
    start = start_of(row.pattern, row.rewrite) if not row.websocket else None
    if start is None:

        def simply(x: Exchange) -> Awaitable[None] | None:
            x.target = path(x.raw_path, x.params)
            return handler(x)

        return simply

    def handle(x: Exchange) -> Awaitable[None] | None:
        raw = x.raw_path
        x.target = target = path(raw, x.params)
        prefix = raw.removesuffix(target[len(start) :])
        if not start:
            x.context += b"x-forwarded-prefix: %b\r\n" % prefix
        send = x.send

        def homewards(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and not x.problem_code:
                message["headers"] = [
                    (name, home(value, start, prefix)) if name in _REFERENCES else (name, value)
                    for name, value in message["headers"]
                ]
            return send(message)

        x.send = homewards
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
