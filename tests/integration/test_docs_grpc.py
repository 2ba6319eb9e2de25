"""docs/grpc.md is true: its commands print what it says, against the demo with its gRPC service."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.integration.test_demo import demo
from tests.support.config import File
from tests.support.console import blocks, run, shown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "grpc.md"


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        info = running.info
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GATEWAY_CONFIG": str(ROOT / "demo" / "grpc.toml"),
            "TOKEN": info["tokens"]["owner"],
            "NO_PROXY": "*",
            "COLUMNS": "400",  # nothing wraps
        }
        replaced = {
            "http://localhost:8000": info["url"],
            "localhost:8000": info["url"],
            "gateway check": f"{sys.executable} -m kernel check",
            "gateway explain": f"{sys.executable} -m kernel explain",
        }
        for each in shown(PAGE):
            run(each, tmp_path, environment, replaced)


def test_the_table_is_taken(tmp_path: Path) -> None:
    shutil.copy(ROOT / "demo" / "platform" / "loyalty.binpb", tmp_path)
    (text,) = blocks(PAGE, "toml")
    settings = File(tmp_path / "gateway.toml").load(text)
    assert any(row.service == "loyalty" for row in settings.routes)
