"""`gateway graphql schema`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from kernel.cli.output import Style, plural
from kernel.cli.probe import Failed, fetch
from kernel.cli.settings import obtain
from kernel.config import Settings
from kernel.config.tables import unknown
from kernel.openapi.editions import Edition, editions
from kernel.routing.catalog import V1, Service

_THREADS = 32
_MAX_BYTES = 1024 * 1024


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Print the GraphQL schema that the gateway makes of the services' OpenAPI documents as they are now, always in the same
order: for code generators, and to be compared in a review. What is left out, and why, goes to standard error. Exits 1 when
no service has a document that can be used."""
    parser.epilog = """\
examples:
  gateway graphql schema > schema.graphql
  gateway graphql schema --service inventory --service sales
"""
    parser.add_argument("what", choices=("schema",), metavar="schema", help="what to print")
    parser.add_argument(
        "--service", action="append", default=[], metavar="NAME", help="only of this service; several times"
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="for each service (5)")


def run(args: argparse.Namespace) -> int:
    loaded = obtain()
    if loaded is None:
        return 1
    settings = loaded.settings
    style = Style(sys.stderr)
    catalog = {service.name: service for service in settings.service_catalog}
    for name in args.service:
        if name not in catalog:
            sys.stderr.write(f"gateway: the service {name!r} {unknown(name, catalog)}\n")
            return 2
    services = [catalog[name] for name in dict.fromkeys(args.service)] or list(catalog.values())
    with ThreadPoolExecutor(_THREADS) as pool:
        bodies = pool.map(lambda service: _document(settings, service, args.timeout), services)
        found = {service.name: body for service, body in zip(services, bodies, strict=True)}

    from kernel.graphql.maker import modelled  # noqa: PLC0415  # 100 ms that other commands need not spend
    from kernel.graphql.schema import built, text  # noqa: PLC0415

    first = editions(settings.service_catalog, settings.routes).get(V1, Edition())
    model = modelled(found, first.rows)
    for part in model.services:
        if part.reason:
            sys.stderr.write(f"{style('31', part.name)}: left out, {part.reason}\n")
        for each in part.left_out:
            sys.stderr.write(f"{part.name}: left out: {each}\n")
    sound = [part for part in model.services if not part.reason]
    if not sound:
        sys.stderr.write("gateway: no service has an OpenAPI document that can be used\n")
        return 1
    sys.stdout.write(text(built(model).schema))
    count = sum(len(part.operations) for part in sound)
    sys.stderr.write(f"{plural(count, 'operation')} of {plural(len(sound), 'service')}\n")
    return 0


def _document(settings: Settings, service: Service, seconds: float) -> bytes | str:
    """Of the first replica that has it; of a gRPC service, by its descriptors."""
    if service.grpc is not None:
        from kernel.transcoding.descriptors import Descriptors  # noqa: PLC0415
        from kernel.transcoding.openapi import document  # noqa: PLC0415

        return document(Descriptors(service.grpc.descriptors), service.name)
    why = "it has no URL"
    for url in settings.services[service.name]:
        try:
            _, _, body = fetch(url, service.openapi, seconds, service.trust, _MAX_BYTES + 1)
        except (Failed, OSError) as error:
            why = str(error) or "no answer"
            continue
        return body if len(body) <= _MAX_BYTES else f"the document has more than {_MAX_BYTES} bytes"
    return why
