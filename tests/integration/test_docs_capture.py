"""The commands of docs/capture.md, as they are printed there."""

from __future__ import annotations

import json
from pathlib import Path

from openapi_schema_validator import OAS31Validator

from tests.support.gateway import free_port
from tests.support.har import HAR
from tests.support.pages import reading
from tests.support.poll import poll


def test_the_page_s_commands_do_what_it_says(tmp_path: Path) -> None:
    names = {"8000": str(free_port()), "8001": str(free_port())}
    with reading("capture.md", tmp_path, names) as reader:
        demo, ask, look, second, again = reader.blocks
        reader.start(demo, "first.json")
        asked = reader.run(ask)
        assert asked.count('"id":') >= 4
        captured = tmp_path / "capture.ndjson"
        poll(lambda: captured.exists() and len(captured.read_bytes().splitlines()) == 3)
        looked = reader.run(look)
        assert "3 requests" in looked
        assert "/api/v1/inventory/**" in looked
        text = (tmp_path / "capture.har").read_text()
        assert "4711" not in text
        assert json.loads((tmp_path / "first.json").read_text())["tokens"]["owner"] not in text
        OAS31Validator(HAR).validate(json.loads(text))
        reader.start(second, "second.json")
        told = reader.run(again)
        assert "2 the same, 0 different" in told
        assert "1 left out: changes something" in told
