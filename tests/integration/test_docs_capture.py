"""The commands of docs/capture.md print what it says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from openapi_schema_validator import OAS31Validator

from tests.integration.test_demo import demo
from tests.support.console import blocks, run, shown
from tests.support.har import HAR
from tests.support.poll import poll

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "capture.md"


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    captured = tmp_path / "capture.ndjson"
    (start,) = blocks(PAGE, "sh")
    variables = dict(word.split("=") for word in start.split() if "=" in word)
    variables["CAPTURE_FILE"] = str(tmp_path / variables["CAPTURE_FILE"])
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with demo(first, **variables) as one, demo(second) as other:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TOKEN": one.info["tokens"]["owner"],
            "OTHER": other.info["tokens"]["owner"],
            "NO_PROXY": "*",
        }
        replaced = {
            "http://localhost:8001": other.info["url"],
            "localhost:8000": one.info["url"],
            "gateway ": f"{sys.executable} -m kernel ",
        }
        for each in shown(PAGE):
            if each.command.startswith("gateway capture"):
                poll(lambda: captured.exists() and len(captured.read_bytes().splitlines()) == 3)
            run(each, tmp_path, environment, replaced)
    text = (tmp_path / "capture.har").read_text()
    OAS31Validator(HAR).validate(json.loads(text))
    for secret in ("4711", environment["TOKEN"]):
        assert secret not in text
