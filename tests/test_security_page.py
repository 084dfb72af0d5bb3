"""docs/security.md: its tests exist, and its numbers are those of the code."""

import ast
import importlib
import re
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
ROWS = [row for row in ROWS if row[-1] != "test"]
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


def test_every_line_has_a_test_that_exists():
    assert len(ROWS) > 45
    for row in ROWS:
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[-1]), row
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", PAGE):
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)


def test_limits_are_those_of_the_code():
    compared = 0
    for what, value, place, _ in (row for row in ROWS if len(row) == 4):
        module, _, name = place.strip("`").rpartition(".")
        stored = getattr(importlib.import_module(module), name)
        if not isinstance(stored, (int, float, timedelta)):
            continue  # a rule, not a number
        number, _, unit = value.partition(" ")
        stored = stored.total_seconds() if isinstance(stored, timedelta) else stored
        assert float(number.replace(",", "")) * UNITS.get(unit, 1) == stored, what
        compared += 1
    assert compared > 20
