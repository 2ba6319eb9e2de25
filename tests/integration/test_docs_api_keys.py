"""The commands of docs/api-keys.md print what it says, and its scanner finds keys and nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.primitives.api_key import PATTERN, new_key
from kernel.server.embedded_store import EmbeddedStore
from tests.integration.test_demo import demo
from tests.support.console import blocks, run, shown
from tests.support.tokens import SECRET, public_pem

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api-keys.md"


def test_the_till_sells_until_its_key_is_taken_away(tmp_path: Path) -> None:
    exports = blocks(PAGE, "sh")[0]
    with demo(tmp_path) as running:
        (tmp_path / "demo.json").write_text(json.dumps(running.info))
        replaced = {"http://localhost:8000": running.info["url"], "python3 ": f"{sys.executable} "}
        for old, new in replaced.items():
            exports = exports.replace(old, new)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
        for each in shown(PAGE):
            run(each._replace(command=f"{exports}{each.command}"), tmp_path, environment, replaced)
        printed = running.printed()
    for file in ("key.json", "new.json"):
        assert json.loads((tmp_path / file).read_text())["api_key"][13:] not in printed


def test_the_scanner_of_the_page() -> None:
    (source,) = blocks(PAGE, "python")
    names: dict[str, Callable[[str], bool]] = {}
    exec(source, names)
    is_key = names["is_key"]
    text = PAGE.read_text()
    assert f"`{PATTERN}`" in text or PATTERN in text
    (example,) = set(re.findall(PATTERN, text))
    assert is_key(example)
    key = new_key("AbCdEfGh")
    assert is_key(key)
    assert not is_key(key[:-1] + ("0" if key[-1] != "0" else "1"))


def test_operators_commands_make_rotate_and_revoke(store_server: EmbeddedStore, tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("REDIS")},
        "REDIS_URL": store_server.url,
        "JWT_SECRET_KEY": SECRET,
        "JWT_PUBLIC_KEY": public_pem(),
        "AUDIT_LOG_FILE": str(audit),
        "PYTHONPATH": str(ROOT),
    }
    key_id, printed = "", []
    for line in blocks(PAGE, "sh")[1].strip().splitlines():
        command = line.replace("KEY_ID", key_id).replace(
            "gateway ", f"{shlex.quote(sys.executable)} -m kernel "
        )
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout + done.stderr)
        key = (tmp_path / "till.key").read_text().strip()
        assert re.fullmatch(PATTERN, key)
        assert key[13:] not in printed[-1]
        key_id = key[5:13]
    assert f"{key_id}  t-1" in printed[1]
    assert "is refused" in printed[3]
    events = [json.loads(event) for event in audit.read_text().splitlines()]
    done_so = [event["command"] for event in events]
    assert done_so == ["keys create", "keys rotate", "keys revoke", "keys reseal"]
    assert {event["subject"] for event in events[:3]} == {f"key:{key_id}"}
    assert key[13:] not in audit.read_text()


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        (("create", "--tenant", "t", "--name", "x", "--scope", "stock:read"), "", "scope"),
        (("create", "--tenant", "t", "--name", "x", "--scope", "*", "--role", "owner"), "", "regex"),
        (
            ("create", "--tenant", "t", "--name", "x", "--scope", "*", "--limit", "0/1"),
            "",
            "REQUESTS/SECONDS",
        ),
        (("rotate", "AAAAAAAA"), "", "api-key-unknown"),
        (("rotate", "AAAAAAAA", "--overlap", "604801"), "", "604800"),
        (("revoke",), "junk", "no API key"),
        (("revoke", "bkgw_8Zq1TtBkAbCdEfGhIjKlMnOpQrStUv2qEwoh"), "", "standard input"),
    ],
)
def test_what_operators_cannot_do(
    store_server: EmbeddedStore, tmp_path: Path, arguments: tuple[str, ...], given: str, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kernel", "keys", *arguments],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": store_server.url,
            "JWT_SECRET_KEY": SECRET,
            "JWT_PUBLIC_KEY": public_pem(),
        },
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "AbCdEfGhIjKlMnOpQrStUv" not in done.stderr
