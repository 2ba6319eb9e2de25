"""The files that build and install the product: pinned, consistent, and free of any host's name."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(path.name for path in REQUIREMENTS.glob("*.lock"))


def names_and_pins(lock: str) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (REQUIREMENTS / lock).read_text(), re.MULTILINE)
    return dict(pins)


def wanted(file: str) -> set[str]:
    lines = (REQUIREMENTS / file).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-"))}


def bare(requirement: str) -> str:
    return re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace("_", "-")


def targets() -> list[str]:
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [target for target in line.split() if target.islower()]


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


# --- locks


def test_every_input_has_its_lock() -> None:
    assert sorted(path.with_suffix(".lock").name for path in REQUIREMENTS.glob("*.in")) == LOCKS


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_nothing_names_a_host(lock: str) -> None:
    text = (REQUIREMENTS / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) == len(names_and_pins(lock))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "build.lock"])
def test_what_runs_is_pinned_alike_everywhere(lock: str) -> None:
    pins = names_and_pins(lock)
    assert {name: pins.get(name) for name in names_and_pins("runtime.lock")} == names_and_pins("runtime.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_what_its_input_asks_for(lock: str) -> None:
    asked = {bare(requirement) for requirement in wanted(lock.replace(".lock", ".in"))}
    assert asked <= set(names_and_pins(lock))


def test_package_metadata_asks_for_what_the_locks_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["project"]["dependencies"]) == wanted("runtime.in")
    assert set(project["build-system"]["requires"]) == wanted("build.in")


# --- Makefile and CI


def test_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=quiet()
    )
    for target in targets():
        assert f"make {target} " in shown.stdout
    assert not shown.stderr


@pytest.mark.parametrize("target", targets())
def test_target_can_be_made(target: str) -> None:
    planned = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False, env=quiet()
    )
    assert planned.returncode == 0, planned.stderr


def quiet() -> dict[str, str]:
    """Without what an outer make would pass on."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def test_too_old_python_is_told_so(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/runtime.lock", "requirements/build.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    command = ["make", "demo", f"PYTHON={old}"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=quiet())
    assert made.returncode != 0
    assert "Python 3.11 or newer is needed" in made.stderr
    assert "Python 3.9.2" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_what_developers_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert text.index("step make lint") < text.index("tests test ")
    for target in re.findall(r"^ *(?:step make|tests) ([a-z-]+)", text, re.MULTILINE):
        assert target in targets()


# --- Dockerfile


def test_image_copies_only_what_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "kernel" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_image_installs_by_hash_and_runs_unprivileged() -> None:
    text = dockerfile()
    assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
    assert "index-url" not in text
    installs = re.findall(r"pip(?: --python \S+)? install (?!--no-deps)[^&;]*", text)
    assert len(installs) >= 3
    for install in installs:
        assert "--require-hashes" in install
    instructions = text.splitlines()
    user = next(line for line in instructions if line.startswith("USER "))
    assert user.split()[1] not in {"root", "0", "0:0"}
    assert instructions.index(user) < instructions.index('ENTRYPOINT ["gateway"]')
    for line in ("EXPOSE 8000", "STOPSIGNAL SIGTERM", 'CMD ["run"]'):
        assert line in instructions
