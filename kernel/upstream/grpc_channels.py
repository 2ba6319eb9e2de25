"""gRPC services: a channel for each replica, made when the first call needs it, and what a failed call means.

Replicas, breakers and the budget of retries are those of `Upstream`; instead of its pool a replica has one HTTP/2 connection
here, on which calls share. Imported in a worker only, after the fork (grpcio keeps threads), and only for such services.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable
from typing import Any

# Its own log lines (a connection that went, say) are noise beside the gateway's; an operator may ask for them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
import grpc
from grpc import aio

from kernel.http.addresses import in_url
from kernel.http.problems import (
    BODY_TOO_LARGE,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    UPSTREAM_TOO_LARGE,
    Problem,
    ProblemKind,
)
from kernel.routing.catalog import Trust
from kernel.transcoding.descriptors import Descriptors
from kernel.transcoding.status import DETAILS, problem
from kernel.upstream.balance import Replica, Upstream

Status = grpc.StatusCode
_HEALTH = "/grpc.health.v1.Health/Check"
# HealthCheckResponse{status: SERVING}
_SERVING = b"\x08\x01"
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_LATE = re.compile(r"timed? ?out", re.IGNORECASE)
_UNREACHED = (
    "failed to connect to all addresses",
    "DNS resolution failed",
    "connections to all backends failing",
)
# How grpcio begins what it says itself: of a call whose stream ended without a status of the service's, ...
_OWN = ("Stream removed", "Received http2 header with status", "No status received")
# ... in these cases since what came was no gRPC (PROTOCOL-HTTP2.md, "Responses"); ...
_NO_GRPC = ("Received http2 header", "No status received", "Data frame with END_STREAM")
# ... and of connections.
_BROKEN = (
    "Socket closed",
    "Connection ",
    "Broken pipe",
    "GOAWAY",
    "Transport closed",
    "recvmsg",
    "sendmsg",
    "keepalive",
    "ping ",
)
_TOO_LARGE = re.compile(r"message larger than max", re.IGNORECASE)
_LATE_ANSWER = "Deadline Exceeded"
# Of servers that allow no more often (grpc-go's and grpc-java's default), and how long an answer to it may take.
_PING_MS, _PONG_MS = 330_000, 20_000
_FIRST_BACKOFF_MS, _LONGEST_BACKOFF_MS = 200, 5_000
# What is under way at a replica that has moved may take so long.
_LEAVING_SECONDS = 600.0


class GrpcService:
    """The calls to one service. Make it in the loop that uses it. `tell(code, text)` is for operators: of failures
    not all that the service says goes to clients."""

    def __init__(
        self,
        upstream: Upstream,
        descriptors: Descriptors,
        trust: Trust | None,
        max_message: int,
        connect_timeout: float,
        tell: Callable[[str, str], None],
    ) -> None:
        self.upstream = upstream
        self._tell = tell
        self.descriptors = descriptors
        self._trust = trust
        self._options = (
            ("grpc.max_receive_message_length", max_message),
            ("grpc.max_send_message_length", -1),  # the route's max_body bounds it
            # SECURITY: grpcio would go by way of a proxy that the environment names.
            ("grpc.enable_http_proxy", 0),
            # Retries are counted and bounded here, for all of them.
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.primary_user_agent", "bakery-gateway"),
            ("grpc.keepalive_time_ms", _PING_MS),
            ("grpc.keepalive_timeout_ms", _PONG_MS),
            (
                "grpc.min_reconnect_backoff_ms",
                int(connect_timeout * 1000),
            ),  # it is how long connecting may take
            ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
        )
        # With the addresses it was made for.
        self._channels: dict[Replica, tuple[tuple[str, ...], aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Of who translates a large message.
        self.turn = asyncio.Semaphore(1)
        # Why the last connection could not be made, for operators.
        self.trouble = ""

    def channel(self, replica: Replica) -> aio.Channel:
        """The channel of `replica`, where that is now."""
        ips = replica.pool.ips
        known = self._channels.get(replica)
        if known is not None and known[0] == ips:
            return known[1]
        channel = self._open(replica)
        self._channels[replica] = (ips, channel)
        if known is not None:
            self._let_go(known[1])
        present = set(self.upstream.replicas)
        for gone in [each for each in self._channels if each not in present and each is not replica]:
            self._let_go(self._channels.pop(gone)[1])
        return channel

    def _open(self, replica: Replica) -> aio.Channel:
        address = replica.pool.address
        options = [*self._options]
        if address.path:
            target = f"unix:{address.path}"
        elif replica.pool.ips:
            ip = replica.pool.ips[0]
            target = f"ipv6:[{ip}]:{address.port}" if ":" in ip else f"ipv4:{ip}:{address.port}"
        else:
            target = f"dns:///{in_url(address.host)}:{address.port}"
        # The name that a certificate is for, too, wherever it leads.
        options.append(("grpc.default_authority", address.authority))
        if not address.tls:
            return aio.insecure_channel(target, options=options)
        return aio.secure_channel(target, _credentials(self._trust), options=options)

    def _let_go(self, channel: aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(_LEAVING_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def probe(self) -> str:
        """Ask grpc.health.v1 how the service is: what is wrong with it, or "".

        One that does not serve that protocol answers all the same, and is well.
        """
        replica = self.upstream.any_replica()
        try:
            answer = await self.channel(replica).unary_unary(_HEALTH)(b"")
        except aio.AioRpcError as error:
            if error.code() != Status.UNIMPLEMENTED:
                kind = failure(error)
                self.note(error)
                return kind.title.lower() if kind else f"answered {error.code().name}"
            answer = _SERVING
        self.trouble = ""
        replica.breaker.success()
        return "" if answer == _SERVING else "does not serve"

    def note(self, error: aio.AioRpcError) -> None:
        """Keep why a connection could not be made: addresses are in it, so that no client is told."""
        if failure(error) in (UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT):
            self.trouble = (error.details() or "").rpartition("last error: ")[2][:300]

    def problem(self, error: aio.AioRpcError) -> Problem:
        """The status that the service has sent."""
        code = error.code()
        text = error.details() or ""
        metadata: Any = error.trailing_metadata()
        details = metadata.get(DETAILS) if metadata is not None else None
        found = problem(self.descriptors, code.name, code.value[0], text, details or b"")
        if found.kind.status >= 500:
            self._tell(code.name, text)
        return found

    async def close(self) -> None:
        """Close every channel, and end what is under way."""
        for task in self._closing:
            task.cancel()
        channels = [channel for _, channel in self._channels.values()]
        self._channels.clear()
        await asyncio.gather(*(each.close() for each in channels), *self._closing, return_exceptions=True)


def failure(error: aio.AioRpcError) -> ProblemKind | None:
    """What a failed call was in our words; None when it is a status that the service has sent.

    grpcio has no field that says which of both it is: its own texts are told by their beginning. Tests hold it to them.
    """
    text = error.details() or ""
    code = error.code()
    own = text.startswith(_OWN)
    if code == Status.RESOURCE_EXHAUSTED and _TOO_LARGE.search(text):
        return UPSTREAM_TOO_LARGE if own else BODY_TOO_LARGE
    if code == Status.UNAVAILABLE and text.startswith(_UNREACHED):
        return UPSTREAM_CONNECT_TIMEOUT if _LATE.search(text) else UPSTREAM_CONNECT
    if code == Status.DEADLINE_EXCEEDED and (text == _LATE_ANSWER or own):
        return UPSTREAM_TIMEOUT
    if own:
        return UPSTREAM_PROTOCOL if any(each in text for each in _NO_GRPC) else UPSTREAM_RESET
    if code == Status.UNAVAILABLE and text.startswith(_BROKEN):
        return UPSTREAM_RESET
    return None


def _credentials(trust: Trust | None) -> grpc.ChannelCredentials:
    ca = trust.ca if trust else b""
    if not ca:
        paths = ssl.get_default_verify_paths()
        if paths.cafile:
            with open(paths.cafile, "rb") as file:
                ca = file.read()
    identity = trust.identity if trust else b""
    key = _KEY.search(identity)
    if key is None:
        return grpc.ssl_channel_credentials(ca or None)
    return grpc.ssl_channel_credentials(ca or None, key[0], identity.replace(key[0], b""))
