"""The README's tree names every file, and nothing that is not there; its links and its estimate work."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.preflight.cli import main as preflight

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("shards", "pipeline")


def tree() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- tree -->\n```\n(.*?)\n```", text, re.S)
    assert match, "no tree in README.md"
    return match[1].splitlines()


def test_every_file_has_its_line() -> None:
    here = sorted(p.name for room in ROOMS for p in (ROOT / room).rglob("*.py") if p.name != "__init__.py")
    body = [line.split()[0] for line in tree() if line.split()[0].endswith(".py")]
    listed = sorted(name for name in body if name not in {p.name for p in (ROOT / "launch").glob("*.py")})
    assert listed == here


def test_every_line_says_what_the_file_is() -> None:
    assert all(len(line.split()) > 1 for line in tree())


def test_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing, missing


def test_its_estimate_is_made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Data and weights are not here, so without checks: of these cards and this recipe."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^speakerlm-preflight (.*)$", text, re.M)
    assert command
    monkeypatch.chdir(ROOT)
    code = preflight([*shlex.split(command[1], comments=True), "--no-checks"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "fits into" in printed.out
