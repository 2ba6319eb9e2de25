"""A cluster as a carrier of commands: redis-py's cluster client finds the node of each key and follows redirections.

All or nothing: while any primary is out of reach the whole store counts as down, until a failover has covered its
slots again. Each command is a call of its own, several times the cost of a pipelined one.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from kernel.store.address import Address, Endpoint
from kernel.store.errors import StoreRefused
from kernel.store.link import Command, Landed, Lost, stop


class ClusterLink:
    """A `Carrier` over the connections of a cluster client."""

    def __init__(self, address: Address, timeout: float, lost: Lost, landed: Landed) -> None:
        self._timeout = timeout
        self._lost = lost
        self._landed = landed
        self._loop = asyncio.get_running_loop()
        self._running: dict[Command, asyncio.Task[None]] = {}
        self._broken = False
        self._client = RedisCluster(
            startup_nodes=[
                ClusterNode(node[0], node[1]) for node in address.endpoints if isinstance(node, tuple)
            ],
            protocol=3,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            ssl=address.tls,
            **address.options,
        )

    async def open(self) -> None:
        """Learn the slots and see every primary answer."""
        try:
            # The slot map and the first connections take several round trips.
            async with asyncio.timeout(5 * self._timeout):
                await self._client.initialize()
                for node in self._client.get_primaries():
                    await self._client.execute_command("PING", target_nodes=node)
        except BaseException:
            await self._disconnect()
            raise

    def submit(self, command: Command) -> None:
        command.sent = monotonic()
        self._running[command] = self._loop.create_task(self._send(command))

    async def close(self) -> list[Command]:
        self._broken = True
        unanswered = list(self._running)
        await self._release()
        return unanswered

    async def primaries(self) -> frozenset[Endpoint]:
        """Host and port of every primary, asked anew. Raises RedisError or OSError."""
        await self._client.nodes_manager.initialize()
        return frozenset((node.host, int(node.port)) for node in self._client.get_primaries())

    async def _send(self, command: Command) -> None:
        execute = self._client.execute_command
        try:
            try:
                reply = await execute(*command.args)
            except NoScriptError:
                if command.source is None:
                    raise
                reply = await execute(*command.in_full().args)
            self._landed(monotonic() - command.sent)
            command.answer(reply)
        except (ClusterError, ReadOnlyError) as error:
            self._break(error)
        except ResponseError as error:
            command.fail(StoreRefused(str(error)))
        except (RedisError, OSError) as error:
            self._break(error)
        self._running.pop(command, None)

    def _break(self, error: Exception) -> None:
        if self._broken:
            return
        self._broken = True
        unanswered = list(self._running)
        self._lost(self, error, unanswered)

    async def _release(self) -> None:
        try:
            await stop(list(self._running.values()))
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        nodes = self._client.nodes_manager
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()
            # Its own aclose() passes over the nodes when an error has marked the client as not initialised.
            await nodes.aclose()
            await nodes.aclose("startup_nodes")
