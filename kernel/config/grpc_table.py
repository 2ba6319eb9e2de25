"""`protocol`, `descriptors` and `max_message` of a service: the file is read, and the extra is there that it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernel.config.reading import Unreadable, contents
from kernel.config.rewrite import Table
from kernel.config.trust import Complain
from kernel.config.values import size
from kernel.routing.catalog import Service
from kernel.routing.rpc import Grpc

# What the gateway itself asks over HTTP: tokens, families of tenants, demo sessions, dispatched alerts.
_ASKED = ("auth", "demo-session", "notification", "tenant")
# What means something over HTTP only.
_OF_HTTP = ("versions", "canary", "mirror", "preserve_host", "health", "openapi")
_USUAL = Service("", "", ())
_NEEDED = ("grpc", "google.protobuf", "google.api")
_MAX_FILE = 16 * 1024 * 1024
# As gRPC's own.
_MAX_MESSAGE = 4 * 1024 * 1024
_MESSAGE = size(1024, 1024**3)
_EXAMPLES = {
    "protocol": "pip install 'bakery-gateway[grpc]'",
    "descriptors": 'descriptors = "loyalty.binpb"',
    "max_message": 'max_message = "4MiB"',
}


def read(values: dict[str, Any], directory: Path, complain: Complain) -> Grpc | None:
    """Take the fields out of `values`; None for a service that speaks HTTP, or when something is wrong with them."""
    spoken = values.pop("protocol", "http") == "grpc"
    given = {field: values.pop(field) for field in ("descriptors", "max_message") if field in values}
    sound = True

    def wrong(field: str, what: str) -> None:
        nonlocal sound
        sound = False
        complain(field, what, _EXAMPLES[field])

    if not spoken:
        for field in given:
            complain(field, "is for a service that speaks gRPC: say so, or leave it out", 'protocol = "grpc"')
        return None
    if not all(map(_installed, _NEEDED)):
        wrong("protocol", "is grpc, which needs packages that are not installed: install the extra")
    if "descriptors" not in given:
        wrong("descriptors", "is needed: the FileDescriptorSet of the service")
    most = _MAX_MESSAGE
    try:
        most = _MESSAGE.parse(str(given.get("max_message", most)))
    except ValueError as error:
        wrong("max_message", str(error))
    file = b""
    if "descriptors" in given:
        path = directory / given["descriptors"]
        try:
            file = contents(path, _MAX_FILE)
        except Unreadable as why:
            wrong("descriptors", f"the file {path} {why}")
    return Grpc(file, most) if sound else None


def transcode(
    catalog: Iterable[Service],
    table: Table,
    named: Collection[str],
    max_body: int,
    complain: Complain,
    warn: Callable[[str, str], None],
) -> None:
    """Give the gRPC services of `catalog` the routes of their rules. `named` are the patterns of [[routes]]; `max_body` is
    what a request may have where nothing else is said."""
    for service in catalog:
        if service.grpc is None:
            continue
        from kernel.config.grpc_routes import routes  # noqa: PLC0415  # needs the extra, and takes 15 ms

        where = f"[services.{service.name}]"
        if service.name in _ASKED:
            complain(
                f"{where} protocol", "is http: the gateway asks this service itself", 'protocol = "http"'
            )
        usual = {field: getattr(_USUAL, field) for field in _OF_HTTP}
        for field in [name for name, value in usual.items() if getattr(service, name) != value]:
            complain(f"{where} {field}", "is for services that speak HTTP: leave it out", 'protocol = "http"')
        routes(
            table,
            service,
            named,
            min(max_body, _MAX_MESSAGE),
            partial(complain, f"{where} descriptors"),
            partial(warn, f"{where} descriptors"),
        )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in is not there
        return False
