"""The benchmark's peer on Node: found only when whole, installed by one command with exact versions."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.peers import PEERS, fastify
from bench.peers.base import HERE
from bench.rig import REPOSITORY

PEER = next(peer for peer in PEERS if peer.name == "fastify")


def installed(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "package.json").write_text(json.dumps({"version": fastify.PACKAGES[name]}))


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def which(_: str) -> str:
        return "/bin/node"

    monkeypatch.setattr(fastify, "MODULES", tmp_path)
    monkeypatch.setattr(shutil, "which", which)
    return tmp_path


def test_a_peer_with_a_package_missing_is_left_out(modules: Path) -> None:
    assert not PEER.available()
    installed(modules, *list(fastify.PACKAGES)[:-1])
    assert not PEER.available()


def test_a_whole_peer_is_found_and_tells_its_versions(modules: Path) -> None:
    installed(modules, *fastify.PACKAGES)
    assert PEER.available()
    packages = fastify.PACKAGES
    assert PEER.version() == f"{packages['fastify']}, http-proxy {packages['@fastify/http-proxy']}"


def test_without_node_it_is_left_out(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(modules, *fastify.PACKAGES)

    def nowhere(_: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nowhere)
    assert not PEER.available()


def test_every_package_is_pinned_exactly_and_the_makefile_installs_the_same() -> None:
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in fastify.PACKAGES.values())
    recipe = re.search(r"^bench-peers:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    words = set(recipe[1].replace("\\\n", " ").replace("@npm", "npm").split())
    assert set(PEER.install.split()) <= words


def test_the_server_needs_only_what_is_installed() -> None:
    needed = set(re.findall(r"require\('([^']+)'\)", (HERE / "fastify_server.js").read_text()))
    outside = {name for name in needed if not name.startswith("node:")}
    assert outside - set(fastify.PACKAGES) == {"pino"}  # fastify's own logger, so it is there
