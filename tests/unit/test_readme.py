"""The README is short, of one width, names every folder, and its estimate is made by the command that it shows."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.preflight.cli import main as preflight

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_at_most_150_lines_of_120_characters() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_the_tree_names_ten_folders_and_every_top_folder() -> None:
    tree = re.search(r"## What is where\n\n```text\n(.*?)```", TEXT, re.S)
    assert tree
    lines = [line.split(maxsplit=1) for line in tree[1].splitlines()]
    named = [folder for folder, _ in lines]
    assert len(named) == 10
    assert not [folder for folder in named if not (ROOT / folder).is_dir()]
    top = {p.name + "/" for p in ROOT.iterdir() if p.is_dir() and p.name[0].isalpha() and any(p.rglob("*.py"))} & {
        "shards/",
        "pipeline/",
        "launch/",
        "tests/",
        "benchmarks/",
        "docs/",
        "ds_configs/",
    }
    assert top <= set(named)


def test_its_estimate_is_made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Data and weights are not here, so without checks; host and choices are measured by the tests of preflight."""
    command = re.search(r"^speakerlm-preflight (.*)$", TEXT, re.M)
    assert command
    monkeypatch.chdir(ROOT)
    code = preflight([*shlex.split(command[1], comments=True), "--no-checks", "--no-host", "--no-choices"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "fits into" in printed.out
