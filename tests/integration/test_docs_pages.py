"""The pages of docs/ about what routes can do are true: their commands print what they say, their tables are taken."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from kernel.traffic import mirror
from tests.integration.test_demo import demo
from tests.support.config import File
from tests.support.console import blocks, run, shown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Page -> the demo's configuration that its commands ask about.
PAGES = {
    "canary": "gateway.toml",
    "graphql": "gateway.toml",
    "grpc": "grpc.toml",
    "idempotency": "gateway.toml",
    "versions": "gateway.toml",
}
TABLES = [(page, text) for page in PAGES for text in blocks(DOCS / f"{page}.md", "toml")]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_print_what_the_page_says(page: str, tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        info = running.info
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GATEWAY_CONFIG": str(ROOT / "demo" / PAGES[page]),
            "TOKEN": info["tokens"]["owner"],
            "GRACE": info["tokens"]["grace"],
            "NO_PROXY": "*",
            "COLUMNS": "400",  # nothing wraps
        }
        replaced = {"http://localhost:8000": info["url"], "localhost:8000": info["url"]}
        for command in ("check", "explain", "routes"):
            replaced[f"gateway {command}"] = f"{sys.executable} -m kernel {command}"
        for each in shown(DOCS / f"{page}.md"):
            run(each, tmp_path, environment, replaced)


@pytest.mark.parametrize(("page", "text"), TABLES)
def test_the_tables_are_taken(page: str, text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    shutil.copy(ROOT / "demo" / "platform" / "loyalty.binpb", tmp_path)
    settings = File(tmp_path / "gateway.toml").load(text)
    if page == "grpc":
        assert any(row.service == "loyalty" for row in settings.routes)


def test_the_bounds_of_a_mirror_are_those_of_the_code() -> None:
    page = (DOCS / "canary.md").read_text()
    assert f"| copies under way | {mirror.MOST_UNDER_WAY} |" in page
    body, together = mirror.MOST_BODY // 1024, mirror.MOST_BYTES // 1024**2
    assert f"| bodies of copies | {body} KiB each, {together} MiB together |" in page
    assert f"| {mirror.MOST_ANSWER // 1024**2} MiB; the status" in page
