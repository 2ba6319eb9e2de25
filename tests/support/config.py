"""What a test asks of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.config import ConfigErrors, load


def problems(environ: dict[str, str], env_file: Path | None = None) -> dict[str, str]:
    """What is wrong, by variable."""
    with pytest.raises(ConfigErrors) as raised:
        load(environ, env_file)
    return {error.variable: error.problem for error in raised.value.errors}
