"""The layout is the architecture: imports run downwards, libraries stay in their rooms, modules hold no state."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("kernel/**/*.py"), *ROOT.glob("handlers/**/*.py")])

# Lowest first. A module may import from its own organ and from layers below; organs of one layer do not know each other.
LAYERS: list[set[str]] = [
    {
        "kernel",
        "kernel.http.problems",
        "kernel.routing.catalog",
        "kernel.http.headers",
        "kernel.http.addresses",
        "kernel.http.paths",
    },
    {
        "kernel.config",
        "kernel.server.terminal",
        "kernel.http.cookies",
        "kernel.server.listening",
        "kernel.http.credentials",
        "kernel.tenancy.timestamps",
        "kernel.server.cpu_policy",
        "kernel.server.signals",
        "kernel.server.idle_connections",
        "kernel.exchange.streams",
        "kernel.exchange.sockets",
        "kernel.singleflight",
        "kernel.server.run_directory",
    },
    {"kernel.exchange.exchange", "kernel.routing.trie"},
    {"kernel.exchange.disconnect"},
    {"kernel.exchange.cors", "kernel.identity", "kernel.store", "kernel.upstream", "kernel.telemetry"},
    {
        "kernel.exchange.route",
        "kernel.exchange.websocket",
        "kernel.upstream.request_headers",
        "kernel.identity.tenant_context",
        "kernel.exchange.json_body",
        "kernel.exchange.lasting",
    },
    {
        "kernel.routing.router",
        "kernel.tenancy.tenants",
        "kernel.tenancy.demo_sessions",
        "kernel.alerts.dispatch",
        "kernel.identity.tickets",
        "kernel.tenancy.guard",
        "kernel.alerts",
        "kernel.geocoding",
        "kernel.openapi",
        "kernel.identity.revocations",
        "kernel.identity.shared_refresh",
        "kernel.identity.authority",
    },
    {"kernel.build.identity", "kernel.build.health"},
    {"kernel.state"},
    {"kernel.stages", "kernel.stages.effects"},
    {"kernel.app", "kernel.build"},
    {"handlers", "kernel.server.intake"},
    {"kernel.server.worker"},
    {"kernel.server.reload"},
    {"kernel.server.supervisor"},
    {"kernel.server.parent"},
    {"kernel.cli"},
    {"kernel.__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
LIBRARIES = {
    "httpx": "kernel/upstream/",
    "httptools": "kernel/upstream/",
    "websockets": "kernel/upstream/",
    "redis": "kernel/store/",
    "jwt": "kernel/identity/",
    "cryptography": "kernel/identity/",
    "structlog": "kernel/telemetry/",
    "prometheus_client": "kernel/telemetry/",
}
MUTABLE_CALLS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}


def organ(module: str) -> str:
    """The unit that has a layer: `kernel.store.redis` belongs to `kernel.store`."""
    parts = module.split(".")
    if parts[0] == "handlers":
        return "handlers"
    return ".".join(parts[:2])


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> list[tuple[str, bool]]:
    """(module, only for type checking) of every import, wherever it stands."""
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in checking) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "kernel":
                names = [f"kernel.{alias.name}" for alias in node.names]
                found += [
                    (name if organ(name) in RANK else node.module, id(node) in checking) for name in names
                ]
            else:
                found.append((node.module, id(node) in checking))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_run_downwards(path: Path) -> None:
    name = module_name(path)
    own = organ(name)
    assert own in RANK, f"{own} has no layer: give it one in LAYERS"
    for imported, checking in imports(ast.parse(path.read_text())):
        other = organ(imported)
        if other.split(".")[0] not in {"kernel", "handlers"} or other == own or checking:
            continue
        assert RANK[other] < RANK[own], f"{name} imports {imported}, which is not below it"
        if other == "handlers":
            assert own == "kernel.server.worker", f"{name} imports a handler"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for imported, _ in imports(ast.parse(path.read_text())):
        room = LIBRARIES.get(imported.split(".")[0])
        if room:
            assert str(path.relative_to(ROOT)).startswith(room), f"{imported} belongs in {room}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-2] == "handlers"], ids=str)
def test_handlers_never_import_each_other(path: Path) -> None:
    if path.name == "__init__.py":
        return
    assert not [name for name, _ in imports(ast.parse(path.read_text())) if name.startswith("handlers")]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_modules_hold_no_mutable_state(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        value = node.value
        target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        if target == "__all__":
            continue
        # A constant in capitals may be a dict or list literal: it is data, and nobody may write to it.
        if isinstance(value, (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)):
            assert target.isupper(), f"{path}: {target} is mutable and module-level"
        if isinstance(value, ast.Call) and ast.unparse(value.func) in MUTABLE_CALLS:
            assert target.isupper(), f"{path}: {target} is mutable and module-level"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_keep_to_one_responsibility(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 320
