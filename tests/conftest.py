"""Fixtures every test may use."""

from __future__ import annotations

from hypothesis import settings

from tests.support.gateway import gateway_factory
from tests.support.store import *  # noqa: F403  # the module's __all__ are fixtures

__all__ = ["gateway_factory"]

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
