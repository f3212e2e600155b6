"""The README's worked example, command by command, with fewer samples and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.weights.fetch import cache_folder
from tests.support.page_commands import page_commands, run_commands

CACHE = cache_folder()
pytestmark = pytest.mark.timeout(1200)
# Less of everything: the text in the README and what the test runs.
SMALLER = {
    "mine/corpus\n": f"mine/corpus --cache {CACHE} --meetings 2\n",
    "--count 400": "--count 12",
    "--encoder-steps 400": "--encoder-steps 2",
    "--llm-steps 1000": "--llm-steps 2",
    "trainer.max_steps=20": "trainer.max_steps=2 optimizer.warmup_steps=1",
    "--modes no,match": "--modes no,match --limit 4",
}


def test_the_worked_example_of_the_readme(tmp_path: Path) -> None:
    said = run_commands(page_commands("README.md", "From your data to transcripts", SMALLER), tmp_path)
    mine = tmp_path / "mine"
    assert '"faults": 0' in said
    rows = json.loads((mine / "scores" / "scores.json").read_text())
    assert {(row["mode"], row["test_set"]) for row in rows} == {("no", "test"), ("match", "test")}
    assert (mine / "model" / "model.safetensors").exists()
    assert list((mine / "transcripts").glob("*.seglst.json"))
