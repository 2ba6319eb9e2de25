"""The layout is the architecture: imports run downwards, in no circle; libraries stay in their rooms; modules hold no state.

An import counts wherever it stands: at the top, in a function, or under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for room in ("kernel", "handlers", "demo") for path in (ROOT / room).glob("**/*.py"))
PRODUCT = [path for path in SOURCES if "demo" not in path.relative_to(ROOT).parts[0]]

# Lowest first. A module imports from its own room and from rooms on floors below; rooms of one floor do not know each other.
FLOORS: tuple[set[str], ...] = (
    {"kernel"},
    {"kernel.primitives"},
    {"kernel.http"},
    {"kernel.routing"},
    {"kernel.transcoding"},
    {"kernel.config"},
    {"kernel.store", "kernel.telemetry"},
    {"kernel.identity"},
    {"kernel.exchange"},
    {"kernel.upstream"},
    {
        "kernel.capture",
        "kernel.tenancy",
        "kernel.alerts",
        "kernel.geocoding",
        "kernel.openapi",
        "kernel.health",
        "kernel.traffic",
    },
    {"kernel.state"},
    {"kernel.stages"},
    {"kernel.graphql"},
    {"kernel.app", "kernel.build"},
    {"handlers"},
    {"kernel.server"},
    {"demo"},
    {"kernel.cli"},
    {"kernel.__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Arrows that are allowed although their target is a room of outsiders: who may import handlers, and who the demo.
INTO_HANDLERS = {"kernel.server.worker"}
INTO_DEMO = {"kernel.cli.demo"}
LIBRARIES = {
    "graphql": "kernel/graphql/",
    "granian": "kernel/server/granian.py",
    "httpx": "kernel/upstream/",
    "httptools": "kernel/upstream/",
    "websockets": "kernel/upstream/",
    "grpc": "kernel/upstream/",
    "google": "kernel/transcoding/",
    "redis": "kernel/store/",
    "jwt": "kernel/identity/",
    "cryptography": "kernel/identity/",
    "structlog": "kernel/telemetry/",
    "prometheus_client": "kernel/telemetry/",
}
MUTABLE_CALLS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
# What may stand outside the rooms.
LOOSE = {"__init__.py", "__main__.py", "app.py", "state.py"}


def room(module: str) -> str:
    """The unit that has a floor: `kernel.store.redis` belongs to `kernel.store`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "kernel" else parts[0]


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Every module that is imported, wherever the import stands; a name taken from a package counts as that module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_downwards(path: Path) -> None:
    name = module_name(path)
    own = room(name)
    assert own in FLOOR, f"{own} has no floor: give it one in FLOORS"
    for imported in imports(path) & MODULES.keys():
        other = room(imported)
        if other != own:
            assert FLOOR[other] < FLOOR[own], f"{name} imports {imported}, which is not below it"
        if other == "handlers" and own != "handlers":
            assert name in INTO_HANDLERS, f"{name} imports a handler"
        if other == "demo" and own != "demo":
            assert name in INTO_DEMO, f"{name} imports the demo"


def test_imports_run_in_no_circle() -> None:
    graph = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_nothing_stands_loose() -> None:
    assert {path.name for path in (ROOT / "kernel").glob("*.py")} == LOOSE


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for imported in imports(path):
        place = LIBRARIES.get(imported.split(".")[0])
        if place:
            assert str(path.relative_to(ROOT)).startswith(place), f"{imported} belongs in {place}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.parts[-2] == "handlers"], ids=lambda path: path.stem
)
def test_handlers_never_import_each_other(path: Path) -> None:
    if path.name == "__init__.py":
        return
    assert not [name for name in imports(path) if name.startswith("handlers")]


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
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


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_files_are_one_thing(path: Path) -> None:
    """Complexity is ruff's (C901); a file of more than this is rarely one thing."""
    assert len(path.read_text().splitlines()) <= 420
