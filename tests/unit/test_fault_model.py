"""Every promise of docs/fault-model.md names a test that exists, and no injected fault lacks a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fault-model.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_named_test_exists() -> None:
    assert len(NAMED) > 15
    missing = [f"{file}::{name}" for file, name in sorted(NAMED) if name not in functions_of(ROOT / file)]
    assert not missing


def test_every_row_names_a_test_and_every_fault_has_a_row() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line) and line.count("|") == 7]
    assert all("::test_" in row for row in rows)
    assert {int(row.split("|")[1]) for row in rows} == set(range(1, 25))


def test_every_test_of_a_fault_is_on_the_page() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        if path.name != "test_soak.py"
        for name in functions_of(path)
    }
    other = {("tests/faults/test_launchers.py", "test_srun_sets_the_ranks")}  # no fault
    assert found - other == {(file, name) for file, name in NAMED if file.startswith("tests/faults/")}
