"""Fixtures every test may use."""

from __future__ import annotations

from tests.support.gateway import gateway_factory
from tests.support.store import *  # noqa: F403  # the module's __all__ are fixtures

__all__ = ["gateway_factory"]
