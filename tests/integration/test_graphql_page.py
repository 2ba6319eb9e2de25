"""`/graphiql`: in dev alone, from here alone, under the strict policy of `/docs`."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from kernel.config.loading import load
from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import local_gateway

UI = files("kernel.graphql.ui")


async def test_the_page_and_its_files(store_server: EmbeddedStore, tmp_path: Path) -> None:
    async with local_gateway(store_server.url, tmp_path, (), None, GRAPHQL="true") as gateway:
        page = await gateway.ask("GET", "/graphiql")
        assert page.status == 200
        text = page.body.decode()
        assert not re.search(r"https?:|//[a-z]|<script>|<style|style=|\son[a-z]+=", text)
        policy = page.header("content-security-policy") or ""
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        names = re.findall(r'(?:src|href)="(/graphiql/[^"]+)"', text)
        assert len(names) == 6
        size = 0
        for path in names:
            packed = await gateway.ask("GET", path, headers={"accept-encoding": "gzip"})
            assert packed.status == 200
            assert packed.header("cache-control") == "public, max-age=31536000, immutable"
            size += len(packed.body)
        assert size < 400 * 1024
        assert "://" not in UI.joinpath("start.js").read_text()


def test_it_is_for_development_alone() -> None:
    prod = {"ENVIRONMENT": "prod", "REDIS_HOST": "redis", "GRAPHQL": "true", "JWT_SECRET_KEY": "x" * 40}
    for env, there in (({}, False), ({"GRAPHQL": "true"}, True), (prod, False)):
        patterns = {row.pattern for row in load(env).routes}
        assert ("/graphiql" in patterns) is there
        assert ("/api/v1/graphql" in patterns) is ("GRAPHQL" in env)


def test_its_files_are_those_that_were_published() -> None:
    table = re.findall(r"\| (\S+)\.gz \|[^|]*\| ([0-9a-f]{64})", UI.joinpath("README.md").read_text())
    assert len(table) == 4
    for name, digest in table:
        assert sha256(gzip.decompress(UI.joinpath(f"{name}.gz").read_bytes())).hexdigest() == digest
    assert "MIT License" in UI.joinpath("LICENSE").read_text()
    css = gzip.decompress(UI.joinpath("graphiql.min.css.gz").read_bytes())
    assert b"@font-face" not in css
