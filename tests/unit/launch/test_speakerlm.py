"""``speakerlm``: all tools under one name, from any folder."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import speakerlm
from shards.cli import COMMANDS
from speakerlm import cli
from tests.support.completion import completed

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
# What takes more than a tenth of a second to import, and no parser needs.
HEAVY = {"torch", "transformers", "deepspeed", "peft", "funasr", "scipy", "pandas", "matplotlib", "meeteval", "av"}
MODULES = 450  # 398 are the most that a command imports, Python's own among them; they take 0.3 s
HELPS = [[tool, "--help"] for tool in cli.TOOLS] + [["shards", name, "--help"] for name in COMMANDS]


def test_every_script_is_a_tool() -> None:
    tools = {name.removeprefix("speakerlm-"): target for name, target in SCRIPTS.items() if name != "speakerlm"}
    assert tools.keys() <= cli.TOOLS.keys()
    assert tools == {name: f"speakerlm.cli:{name}" for name in tools}
    for name in tools:
        assert getattr(cli, name).args == (name,)


@pytest.mark.parametrize("tool", cli.TOOLS)
def test_arguments_reach_the_tool(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = importlib.import_module(cli.TOOLS[tool][0])
    monkeypatch.setattr(module, "main", lambda argv: seen.append(argv) or 3)
    monkeypatch.setattr(sys, "argv", ["speakerlm-x", "a", "--b"])
    assert cli.main([tool, "a", "--b"]) == cli.run(tool) == 3
    assert cli.main(["--local_rank=1", tool, "a"]) == 3  # as the deepspeed launcher starts a module
    assert seen == [["a", "--b"], ["a", "--b"], ["a", "--local_rank=1"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["decod"], "did you mean decode?"), (["--hlep"], "did you mean --help?"), ([], "required: COMMAND")],
)
def test_typing_errors_name_the_nearest(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert says in capsys.readouterr().err


def test_help_names_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.TOOLS)


def test_help_of_no_command_imports_heavy_packages() -> None:
    """Each in a fork of one process that has imported nothing."""
    code = """
import io, json, os, sys
from contextlib import redirect_stdout
for arguments in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        from speakerlm.cli import main
        try:
            with redirect_stdout(io.StringIO()) as said:
                main(arguments)
        except SystemExit as end:
            print(json.dumps([arguments, end.code, "usage:" in said.getvalue(), list(sys.modules)]), flush=True)
        os._exit(0)
    os.wait()
"""
    command = [sys.executable, "-c", code, json.dumps(HELPS)]
    env = {"PYTHONPATH": str(ROOT / "launch")}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd="/").stdout
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row[0] for row in rows] == HELPS
    for arguments, code, usage, modules in rows:
        assert (code, usage) == (0, True), arguments
        assert not HEAVY & set(modules), arguments
        assert len(modules) <= MODULES, arguments


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("speakerlm tr", {"train", "transcribe"}),
        ("speakerlm shards ver", {"verify"}),
        ("speakerlm shards pack m --wor", {"--workers"}),
        ("speakerlm decode a b --ba", {"--batch"}),
    ],
)
def test_shells_complete_through_tools(line: str, words: set[str], tmp_path: Path) -> None:
    assert completed("speakerlm.cli", line, tmp_path) == words


def test_a_package_found_before_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file; the project's own packages stay as they are."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ImportError, match=f"{ROOT}/shards/__init__.py is imported already") as error:
        speakerlm.put_first(tmp_path)
    assert error.value.name == "shards"
