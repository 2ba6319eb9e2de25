"""The documentation is true: its generated parts are fresh, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernel.cli import COMMANDS
from kernel.cli.reference import BLOCKS, ROOT, documents, renewed

DOCUMENTS = [
    *documents(),
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
]


_PATH = re.compile(r"(?<![\w./-])(?:kernel|handlers|tests|docs|demo|bench|loadtests)/[\w./*-]*\.\w+")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_EXAMPLES = {"kernel/stages/maintenance.py", "handlers/whoami.py"}
"""Files that CONTRIBUTING.md has its reader write."""


def texts() -> list[Path]:
    """Whatever of the project may name a file: documentation, sources, recipes."""
    made = {"build", "out", "node_modules"}
    found = [
        path
        for pattern in ("*.md", "*.py", "*.toml", "*.lua", "Makefile", "Dockerfile")
        for path in ROOT.rglob(pattern)
    ]
    places = {path: path.relative_to(ROOT).parts for path in found}
    # Virtual environments, caches and git's own begin with a dot.
    return [
        path
        for path, parts in places.items()
        if made.isdisjoint(parts) and not any(part[0] == "." for part in parts)
    ]


def anchors(path: Path) -> set[str]:
    """The ids a Markdown renderer gives the headings of `path`."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", list(documents()), ids=lambda path: path.name)
def test_generated_blocks_are_fresh(path: Path) -> None:
    text = path.read_text()
    assert renewed(text) == text, "run `make reference`"


def test_every_block_has_its_place() -> None:
    text = "".join(path.read_text() for path in documents())
    for name in BLOCKS:
        assert text.count(f"<!-- {name}:begin -->") == 1
        assert text.count(f"<!-- {name}:end -->") == 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file) if file else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(path: Path) -> None:
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(
        r"\bmake ([a-z-]+)\b", " ".join(re.findall(r"`[^`\n]+`|^make .*$", text, re.MULTILINE))
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"(?:^|[`(/ ])gateway ([a-z]+)\b", "\n".join(re.findall(r"`[^`\n]+`", text))):
        assert command in COMMANDS, command
    for module in re.findall(r"python -m ((?:bench|kernel)[a-z.]*)", text):
        parts = ROOT.joinpath(*module.split("."))
        assert parts.with_suffix(".py").exists() or (parts / "__main__.py").exists(), module


def test_files_that_are_named_exist() -> None:
    """In documentation, comments and docstrings; what a benchmark writes (`bench/out/`) comes later."""
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts()
        for name in _PATH.findall(path.read_text())
        if name not in _EXAMPLES and not name.startswith("bench/out/") and not any(ROOT.glob(name))
    ]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_are_named_exist(path: Path) -> None:
    for file, name in _TEST.findall(path.read_text()):
        assert re.search(rf"def {name}\b", (ROOT / file).read_text()), name


def test_the_readme_tells_how_to_test() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
