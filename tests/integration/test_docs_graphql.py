"""docs/graphql.md is true: its commands print what it says, its tables are taken."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from tests.integration.test_demo import demo
from tests.support.config import File
from tests.support.console import blocks, run, shown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "graphql.md"


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        info = running.info
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GATEWAY_CONFIG": str(ROOT / "demo" / "gateway.toml"),
            "TOKEN": info["tokens"]["owner"],
            "NO_PROXY": "*",
        }
        replaced = {"localhost:8000": info["url"]}
        for each in shown(PAGE):
            run(each, tmp_path, environment, replaced)


@pytest.mark.parametrize("text", blocks(PAGE, "toml"))
def test_the_tables_are_taken(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    File(tmp_path / "gateway.toml").load(text)
