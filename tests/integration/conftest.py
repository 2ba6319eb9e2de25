"""One gateway a module, in front of a recording upstream that plays every service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.recorder import Recorder, recording_upstream
from tests.support.stack import Stack, stack_env


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with recording_upstream() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def shared_stack(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    return Stack(gateway_factory(stack_env(upstream, session_store)), upstream)


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The module's gateway; what its upstream recorded is cleared first."""
    shared_stack.upstream.clear()
    return shared_stack
