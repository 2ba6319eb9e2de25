"""The programs a run compares: one module each, all doing the same work as far as they can."""

from __future__ import annotations

from bench.peers.base import Check, Launch, Peer
from bench.peers.direct import Direct
from bench.peers.envoy import EnvoyJwt
from bench.peers.fastify import Fastify
from bench.peers.gateway import CompiledGateway, Gateway
from bench.peers.granian import BareProxy, GranianEmpty
from bench.peers.haproxy import HaproxyCached, HaproxyJwt, HaproxyPlain
from bench.peers.nginx import NginxPlain
from bench.peers.stack import BriefStack

PEERS: tuple[Peer, ...] = (
    Gateway(),
    CompiledGateway(),
    HaproxyJwt(),
    HaproxyCached(),
    EnvoyJwt(),
    BriefStack(),
    Fastify(),
    GranianEmpty(),
    BareProxy(),
    HaproxyPlain(),
    NginxPlain(),
    Direct(),
)

__all__ = ["PEERS", "Check", "Launch", "Peer"]
