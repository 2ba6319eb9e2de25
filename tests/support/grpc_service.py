"""A real gRPC service of ovens (protos/ovens.proto), in the test's loop, and a configuration with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.protobuf import any_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from kernel.transcoding.descriptors import Descriptors

DESCRIPTORS = Path(__file__).parent / "protos" / "ovens.binpb"
_SERVICE = "bakery.ovens.v1.Ovens"


@dataclass
class Ovens:
    """`metadata` is what the last call came with, `cancelled` how many calls ended before they were answered."""

    port: int = 0
    calls: list[str] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    remaining: float | None = None
    cancelled: int = 0
    written: int = 0
    descriptors: Descriptors = field(default_factory=lambda: Descriptors(DESCRIPTORS.read_bytes()))
    health: int = 1
    server: Any = None

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def kind(self, name: str) -> Any:
        return message_factory.GetMessageClass(
            self.descriptors.pool.FindMessageTypeByName(f"bakery.ovens.v1.{name}")
        )

    def seen(self, name: str, context: Any) -> None:
        self.calls.append(name)
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()

    # --- methods ---

    async def GetOven(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return self.kind("Oven")(oven_id=asked.oven_id, fuel=2, batches=2**60)

    async def ListOvens(self, asked: Any, context: Any) -> Any:  # noqa: N802
        oven = self.kind("Oven")(
            oven_id="echo", labels=[str(asked.page_size), asked.page_token, asked.maker.country.code]
        )
        oven.labels.extend(map(str, (*asked.fuels, *asked.batches)))
        if asked.HasField("lit"):
            oven.lit = asked.lit.value
        if asked.HasField("lit_after"):
            oven.lit_at.CopyFrom(asked.lit_after)
        return self.kind("ListOvensResponse")(ovens=[oven])

    async def ListOnly(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return self.kind("ListOvensResponse")(ovens=[self.kind("Oven")(oven_id="one")] * asked.page_size)

    async def CreateOven(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return asked.oven

    async def UpdateOven(self, asked: Any, context: Any) -> Any:  # noqa: N802
        if asked.validate_only:
            asked.oven.labels.append("validated")
        asked.oven.labels.extend(asked.update_mask.paths)
        return asked.oven

    async def DeleteOven(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return message_factory.GetMessageClass(
            self.descriptors.pool.FindMessageTypeByName("google.protobuf.Empty")
        )()

    async def Heat(self, asked: Any, context: Any) -> Any:  # noqa: N802
        what, _, more = asked.behaviour.partition(":")
        if what == "status":
            await context.abort(grpc.StatusCode[more], f"no heat in {asked.oven_id}")
        if what == "rich":
            await _abort_richly(context)
        if what == "sleep":
            await asyncio.sleep(float(more))
        if what == "raise":
            raise RuntimeError("the password is swordfish")
        if what == "large":
            return self.kind("Oven")(photo=b"x" * int(more))
        if what == "unknown-any":
            oven = self.kind("Oven")()
            oven.extra.type_url, oven.extra.value = "type.googleapis.com/bakery.Nobody", b"x"
            return oven
        return self.kind("Oven")(oven_id=asked.oven_id, celsius=asked.celsius, lit=True)

    async def GetPart(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return asked

    async def GetManual(self, asked: Any, context: Any) -> Any:  # noqa: N802
        kind = "text/plain\r\nset-cookie: a=b" if asked.path == "forged" else "text/plain; charset=utf-8"
        return httpbody_pb2.HttpBody(
            content_type="" if asked.path == "plain" else kind, data=asked.path.encode()
        )

    async def PutManual(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return asked.page

    async def ReadManual(self, asked: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for part in asked.path.split("/"):
            yield httpbody_pb2.HttpBody(content_type="text/plain", data=part.encode())
        if asked.path.endswith("torn"):
            await context.abort(grpc.StatusCode.DATA_LOSS, "the page is torn")

    async def Watch(self, asked: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        what, _, more = asked.behaviour.partition(":")
        if what == "silent":
            await asyncio.sleep(60)
        for at in range(asked.count):
            self.written = at + 1
            yield self.kind("Reading")(at=at, celsius=200 + at, padding="x" * asked.size)
        if what == "status":
            await context.abort(grpc.StatusCode[more], "the thermometer is gone")
        if what == "hang":
            await asyncio.sleep(60)


async def _abort_richly(context: Any) -> None:
    status = status_pb2.Status(code=3, message="the oven cannot do that")
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="celsius", description="must be at most 300")
    for detail in (bad, error_details_pb2.ErrorInfo(reason="TOO_HOT", domain="ovens")):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    status.details.append(any_pb2.Any(type_url="type.googleapis.com/bakery.Nobody", value=b"?"))
    await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT,
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )


def _handlers(ovens: Ovens) -> dict[str, Any]:
    service = ovens.descriptors.pool.FindServiceByName(_SERVICE)
    made: dict[str, Any] = {}

    def unary(name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def handle(asked: Any, context: Any) -> Any:
            ovens.seen(name, context)
            try:
                return await method(asked, context)
            except asyncio.CancelledError:
                ovens.cancelled += 1
                raise

        return handle

    def stream(name: str, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def handle(asked: Any, context: Any) -> AsyncIterator[Any]:
            ovens.seen(name, context)
            try:
                async for each in method(asked, context):
                    yield each
            except (asyncio.CancelledError, GeneratorExit):
                ovens.cancelled += 1
                raise

        return handle

    for method in service.methods:
        if not hasattr(ovens, method.name):
            continue
        kind = message_factory.GetMessageClass(method.input_type)
        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        wrap = stream if method.server_streaming else unary
        made[method.name] = make(
            wrap(method.name, getattr(ovens, method.name)),
            request_deserializer=kind.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return made


@asynccontextmanager
async def ovens_service(port: int = 0, credentials: Any = None, at: str = "") -> AsyncIterator[Ovens]:
    """The service on a loopback port, or where `at` says."""
    ovens = Ovens()

    async def check(asked: bytes, context: Any) -> bytes:
        return b"\x08%c" % ovens.health

    server = aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(_SERVICE, _handlers(ovens)),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
            ),
        )
    )
    at = at or f"127.0.0.1:{port}"
    ovens.port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    ovens.server = server
    await server.start()
    try:
        yield ovens
    finally:
        await server.stop(0)


def configured(directory: Path, *urls: str, more: str = "", routes: str = "") -> dict[str, str]:
    """The environment of a gateway with the service `ovens` at `urls`; `more` goes into its table, `routes` behind it."""
    file = directory / "gateway.toml"
    listed = ", ".join(f'"{url}"' for url in urls)
    file.write_text(
        f'[services.ovens]\nprotocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nurl = [{listed}]\n{more}\n{routes}\n'
    )
    return {"GATEWAY_CONFIG": str(file)}
