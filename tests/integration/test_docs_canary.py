"""docs/canary.md is true: its commands print what it says, its tables are taken."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest

from kernel.traffic import mirror
from tests.integration.test_demo import demo
from tests.support.config import File
from tests.support.console import blocks, run, shown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "canary.md"


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        info = running.info
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GATEWAY_CONFIG": str(ROOT / "demo" / "gateway.toml"),
            "TOKEN": info["tokens"]["owner"],
            "GRACE": info["tokens"]["grace"],
            "NO_PROXY": "*",
            "COLUMNS": "400",  # nothing wraps
        }
        replaced = {"localhost:8000": info["url"]}
        for command in ("explain", "routes"):
            replaced[f"gateway {command}"] = f"{sys.executable} -m kernel {command}"
        for each in shown(PAGE):
            run(each, tmp_path, environment, replaced)


@pytest.mark.parametrize("text", blocks(PAGE, "toml"))
def test_the_tables_are_taken(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    File(tmp_path / "gateway.toml").load(text)


def test_the_bounds_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert f"| copies under way | {mirror.MOST_UNDER_WAY} |" in page
    body, together = mirror.MOST_BODY // 1024, mirror.MOST_BYTES // 1024**2
    assert f"| bodies of copies | {body} KiB each, {together} MiB together |" in page
    assert f"| {mirror.MOST_ANSWER // 1024**2} MiB; the status" in page
