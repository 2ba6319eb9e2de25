"""`/docs`: Swagger UI from here alone, under a strict policy, kept by browsers until it changes."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

from kernel.exchange.assets import takes_gzip
from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local, local_gateway
from tests.support.tokens import access_token, service_token

UI = files("kernel.openapi.ui")


@pytest.fixture
async def gateway(store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path) as gateway:
        yield gateway


async def names(gateway: Local) -> list[str]:
    """The paths that the page loads."""
    return re.findall(r'(?:src|href)="(/docs/[^"]+)"', (await gateway.ask("GET", "/docs")).body.decode())


async def test_the_page_runs_nothing_inline_and_asks_no_other_host(gateway: Local) -> None:
    page = await gateway.ask("GET", "/docs")
    assert page.status == 200
    assert page.header("content-type") == "text/html; charset=utf-8"
    text = page.body.decode()
    assert not re.search(r"https?:|//[a-z]|<script>|<style|style=|\son[a-z]+=", text)
    policy = dict(
        part.strip().split(" ", 1) for part in (page.header("content-security-policy") or "").split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    start = UI.joinpath("start.js").read_text()
    assert "validatorUrl: null" in start
    assert "persistAuthorization: true" in start
    assert "://" not in start


def test_the_page_is_dark_for_who_wants_that_with_the_class_that_the_vendored_style_knows() -> None:
    assert 'toggle("dark-mode", dark.matches)' in UI.joinpath("start.js").read_text()
    assert "prefers-color-scheme: dark" in UI.joinpath("page.css").read_text()
    assert b"html.dark-mode .swagger-ui{" in gzip.decompress(UI.joinpath("swagger-ui.css.gz").read_bytes())


async def test_its_files_are_kept_for_ever_and_sent_as_the_client_takes_them(gateway: Local) -> None:
    found = await names(gateway)
    assert len(found) == 5
    for path in found:
        name = path.rpartition("/")[2]
        plain = await gateway.ask("GET", path)
        assert plain.status == 200
        assert plain.header("cache-control") == "public, max-age=31536000, immutable"
        assert plain.header("content-encoding") is None
        packed = await gateway.ask("GET", path, headers={"accept-encoding": "br, gzip"})
        if name.startswith("swagger-ui"):
            assert packed.header("content-encoding") == "gzip"
            assert "Accept-Encoding" in [value for key, value in plain.headers if key == "vary"]
            assert gzip.decompress(packed.body) == plain.body
            assert packed.body == UI.joinpath(f"{name}.gz").read_bytes()
        else:
            assert packed.body == plain.body == UI.joinpath(name).read_bytes()
        head = await gateway.ask("HEAD", path)
        assert (head.body, head.header("content-length")) == (b"", str(len(plain.body)))
    assert (await gateway.ask("GET", found[0].replace("favicon.png", "README.md"))).status == 404
    assert (await gateway.ask("GET", "/docs/0000000000000000/start.js")).status == 404
    assert (await gateway.ask("GET", "/docs/x/..%2f..%2fpage.html")).status == 400


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP;q=0.1", True),
        (b"br;q=1.0, x-gzip", True),
        (b"gzip;q=0", False),
        (b"gzip ; q=0.000", False),
        (b"br, deflate", False),
        (b"notgzip", False),
    ],
)
def test_gzip_is_sent_to_who_takes_it(accepted: bytes, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


def test_what_is_stored_is_what_was_published() -> None:
    rows = re.findall(
        r"^\| (\S+) \| \S+ \| ([0-9a-f]{64}) \|$", UI.joinpath("README.md").read_text(), re.MULTILINE
    )
    assert {name for name, _ in rows} == {"swagger-ui-bundle.js.gz", "swagger-ui.css.gz", "favicon.png"}
    for name, digest in rows:
        stored = UI.joinpath(name).read_bytes()
        published = gzip.decompress(stored) if name.endswith(".gz") else stored
        assert sha256(published).hexdigest() == digest
    assert "Apache License" in UI.joinpath("LICENSE").read_text()


async def test_outside_development_it_is_for_admins_only(store_server: EmbeddedStore, tmp_path: Path) -> None:
    env = {
        "ENVIRONMENT": "prod",
        "HTTPS_ONLY": "false",
        "ADMIN_ALLOW": "198.51.100.0/24",
        "REDIS_URL": store_server.url,
    }
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        stranger = "203.0.113.9"
        assert (await gateway.ask("GET", "/docs", client=stranger)).status == 404
        assert (await gateway.ask("GET", "/docs", access_token(), client=stranger)).status == 404
        assert (await gateway.ask("GET", "/docs", service_token(), client=stranger)).status == 200
        page = await gateway.ask("GET", "/docs", client="198.51.100.7")
        path = re.findall(r'src="(/docs/[^"]+)"', page.body.decode())[0]
        assert (await gateway.ask("GET", path, client=stranger)).status == 404
        assert (await gateway.ask("GET", path, client="198.51.100.7")).status == 200
