"""docs/traffic.md is a tour that works: every command prints what it says."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.integration.test_demo import demo
from tests.support.console import blocks, run, shown
from tests.support.gateway import free_port
from tests.support.poll import poll

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "traffic.md"
_ENOUGH = 9


def test_the_tour_works(tmp_path: Path) -> None:
    assert len(PAGE.read_text().splitlines()) <= 100
    port = str(free_port())
    (config,) = blocks(PAGE, "toml")
    release, start, exports = blocks(PAGE, "sh")
    (tmp_path / "tour.toml").write_text(config.replace("9001", port))
    variables = dict(word.split("=") for word in shlex.split(start) if "=" in word)
    for name in ("GATEWAY_CONFIG", "CAPTURE_FILE"):
        variables[name] = str(tmp_path / variables[name])
    captured = tmp_path / variables["CAPTURE_FILE"]
    following = subprocess.Popen(
        ["bash", "-c", release.replace("9001", port).replace("python3 -m", "exec python3 -m")], cwd=tmp_path
    )
    try:
        with demo(tmp_path, **variables) as running:
            (tmp_path / "demo.json").write_text(json.dumps(running.info))
            replaced = {
                "http://localhost:8000": running.info["url"],
                "gateway ": f"{sys.executable} -m kernel ",
                "python3 -m demo": f"{sys.executable} -m demo",
            }
            for old, new in replaced.items():
                exports = exports.replace(old, new)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
            for each in shown(PAGE):
                if each.command.startswith("gateway capture"):
                    poll(lambda: captured.exists() and len(captured.read_bytes().splitlines()) >= _ENOUGH)
                run(each._replace(command=f"{exports}{each.command}"), tmp_path, environment, replaced)
    finally:
        following.terminate()
        following.wait(10)
