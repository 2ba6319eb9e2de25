"""What a test asks of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.config import ConfigErrors, Settings, load


def problems(environ: dict[str, str], env_file: Path | None = None) -> dict[str, str]:
    """What is wrong, by variable."""
    with pytest.raises(ConfigErrors) as raised:
        load(environ, env_file)
    return {error.variable: error.problem for error in raised.value.errors}


class File:
    """A gateway.toml in a directory of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, text: str, **environ: str) -> Settings:
        self.path.write_text(text)
        return load({"GATEWAY_CONFIG": str(self.path), **environ})

    def problems(self, text: str) -> list[str]:
        with pytest.raises(ConfigErrors) as raised:
            self.load(text)
        return [f"{error.variable}: {error.problem}" for error in raised.value.errors]
