"""The configuration: environment, `.env` and gateway.toml in, one frozen `Settings` out, all errors at once."""

from __future__ import annotations

from kernel.config.errors import ConfigError, ConfigErrors
from kernel.config.loading import Loaded, load, load_with_warnings
from kernel.config.settings import Settings
from kernel.config.urls import KeySource

__all__ = ["ConfigError", "ConfigErrors", "KeySource", "Loaded", "Settings", "load", "load_with_warnings"]
