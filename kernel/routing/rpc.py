"""What rows and services say of gRPC."""

from __future__ import annotations

from msgspec import Struct

# The handler of its rows.
GRPC = "grpc"


class Rule(Struct, frozen=True):
    """How a method of a gRPC service is called over HTTP (google.api.http): `call` is its path, `methods` are HTTP's."""

    call: str
    methods: tuple[str, ...]
    template: str
    body: str = ""
    response_body: str = ""
    streaming: bool = False

    @property
    def name(self) -> str:
        """The method for people: without its package."""
        return self.call.rpartition(".")[2]


class Grpc(Struct, frozen=True):
    """What makes a service one that speaks gRPC: its FileDescriptorSet, and the bytes that a message of it may have."""

    descriptors: bytes
    max_message: int

    def __repr__(self) -> str:
        return f"Grpc({len(self.descriptors)} bytes, {self.max_message})"
