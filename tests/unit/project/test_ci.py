"""`.ci/run` has the compiled build run the units of all that is compiled."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_rooms_with_compiled_modules_are_those_whose_units_run_on_them() -> None:
    found = re.search(r"tests/unit/\{([a-z,]+)\}", (ROOT / ".ci" / "run").read_text())
    assert found is not None
    (modules,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    )
    rooms = {parts[1] for module in modules if len(parts := module.split("/")) > 2 and parts[0] == "kernel"}
    assert set(found[1].split(",")) == rooms
