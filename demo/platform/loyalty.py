"""Loyalty cards, a service that speaks gRPC (loyalty.proto). Only where the extra `grpc` is installed.

The cards are the same for every tenant, and what is redeemed is forgotten with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DESCRIPTORS = Path(__file__).with_name("loyalty.binpb")
_SERVICE = "bakery.loyalty.v1.Loyalty"
_MEMBERS = (("anna", "Anna Keller", 340), ("ben", "Ben Okoye", 85), ("chloe", "Chloé Martin", 120))
_LOAF_POINTS = 100
_SECONDS = 0.2


def installed() -> bool:
    """Whether the extra is."""
    return find_spec("grpc") is not None


class Loyalty:
    """The service; `start` opens its port."""

    def __init__(self) -> None:
        from google.protobuf import message_factory

        from kernel.transcoding.descriptors import Descriptors

        pool = Descriptors(DESCRIPTORS.read_bytes()).pool
        self._service = pool.FindServiceByName(_SERVICE)
        self._class = message_factory.GetMessageClass
        kinds = ("Member", "ListMembersResponse", "PointsChanged")
        self._kinds = {name: pool.FindMessageTypeByName(f"bakery.loyalty.v1.{name}") for name in kinds}
        self._points = {member: points for member, _, points in _MEMBERS}
        self._server: Any = None

    async def start(self, host: str) -> int:
        """Serve; the port."""
        import grpc
        from grpc import aio

        self._server = aio.server()
        handlers: dict[str, Any] = {}
        for method in self._service.methods:
            make: Callable[..., Any] = (
                grpc.unary_stream_rpc_method_handler
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            handlers[method.name] = make(
                getattr(self, f"_{method.name}"),
                request_deserializer=self._class(method.input_type).FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        port: int = self._server.add_insecure_port(f"{host}:0")
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Close the port and what is open on it."""
        if self._server is not None:
            await self._server.stop(0)

    def _member(self, member_id: str) -> Any:
        name = next((name for known, name, _ in _MEMBERS if known == member_id), None)
        if name is None:
            return None
        points = self._points[member_id]
        tier = 2 if points >= _LOAF_POINTS else 1
        member = self._class(self._kinds["Member"])(member_id=member_id, name=name, tier=tier, points=points)
        member.joined_at.FromJsonString("2025-03-01T07:30:00Z")
        return member

    async def _found(self, asked: Any, context: Any) -> Any:
        import grpc

        member = self._member(asked.member_id)
        if member is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"nobody has the card {asked.member_id}")
        return member

    async def _GetMember(self, asked: Any, context: Any) -> Any:  # noqa: N802
        return await self._found(asked, context)

    async def _ListMembers(self, asked: Any, context: Any) -> Any:  # noqa: N802
        members = [self._member(member) for member, _, _ in _MEMBERS]
        wanted = [each for each in members if not asked.tiers or each.tier in asked.tiers]
        return self._class(self._kinds["ListMembersResponse"])(members=wanted[: asked.page_size or 20])

    async def _RedeemPoints(self, asked: Any, context: Any) -> Any:  # noqa: N802
        import grpc
        from google.protobuf import any_pb2
        from google.rpc import error_details_pb2, status_pb2

        member = await self._found(asked, context)
        if not 0 < asked.points <= member.points:
            wrong = error_details_pb2.BadRequest()
            wrong.field_violations.add(field="points", description=f"must be 1 to {member.points}")
            detail = any_pb2.Any()
            detail.Pack(wrong)
            status = status_pb2.Status(code=3, message="these points cannot be spent", details=[detail])
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                status.message,
                (("grpc-status-details-bin", status.SerializeToString()),),
            )
        self._points[asked.member_id] -= asked.points
        return self._member(asked.member_id)

    async def _WatchPoints(self, asked: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        member = await self._found(asked, context)
        changed = self._class(self._kinds["PointsChanged"])
        for at in range(asked.count or 3):
            yield changed(points=member.points + 5 * at, reason="a loaf was bought" if at else "")
            await asyncio.sleep(_SECONDS)
