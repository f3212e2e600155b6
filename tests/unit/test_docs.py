"""Documentation: commands are parsed by their parsers, Python compiles and its imports exist, links lead somewhere.

A command block is fenced as ``sh`` (only commands) or ``console`` (commands behind ``$``, then their output). A block
that cannot be checked is preceded by ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import speakerlm.cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ds_configs/README.md")),
    ROOT / "launch" / "recipes" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LANGUAGES = {"sh", "console", "python", "json", "yaml", "toml", "text", "bibtex"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = {tool: module for tool, (module, _) in speakerlm.cli.TOOLS.items()}
SCRIPTS = {name: TOOLS.get(name.removeprefix("speakerlm-"), "speakerlm.cli") for name in PROJECT["scripts"]}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
SHELL = {"cd", "mkdir", "cat", "export", "git", "for", "scontrol", "ls", "unzip", "tar", "wandb", "tensorboard", "open"}
WITH_RECIPE = {"launch/train.py", "pipeline.train.cli", "pipeline.preflight.cli", "pipeline.preflight.epoch_report"}
LAUNCHERS = {"deepspeed", "torchrun", "srun"}
# Batch scripts hand their arguments to a command.
BATCH = {
    "pack.sbatch": ("shards.cli", "pack"),
    "embed.sbatch": ("shards.cli", "embed"),
    "train.sbatch": ("launch/train.py",),
}


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str | None  # reason of a `not run` comment

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, indented ones too."""
    start, language, body, why_not = 0, "", [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if start:
            if fence:
                yield Block(page, start, language, "\n".join(body) + "\n", why_not)
                start, body, why_not = 0, [], None
            else:
                body.append(line)
        elif fence:
            start, language = number, fence[1]
        elif comment := re.match(r"\s*<!-- not run: (.+) -->", line):
            why_not = comment[1]
        elif line.strip():
            why_not = None


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> list[list[str]]:
    """Return the words of each command of a block."""
    text = block.text
    if block.language == "console":
        text = "\n".join(line.lstrip()[2:] for line in text.splitlines() if line.lstrip().startswith("$ "))
    text = text.replace("\\\n", " ")
    split = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [part for words in split if words for part in _parts(words)]


def _parts(words: list[str]) -> Iterator[list[str]]:
    """Split at `&&`, `||` and `;`; drop environment variables in front, redirections, and a shell loop's words."""
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||", ";", "|") or word.endswith(";"):
            part += [word[:-1]] if word.endswith(";") and len(word) > 1 else []
            while part and (re.fullmatch(r"[A-Z_]+=.*", part[0]) or part[0] in ("do", "done")):
                part = part[1:]
            if part:
                yield part
            part = []
        elif word.startswith((">", "2>")):
            break
        else:
            part.append(word)


COMMANDS = [
    pytest.param(words, id=f"{block} {' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language in ("sh", "console") and block.why_not is None
    for words in commands_of(block)
]


class Parsed(BaseException):
    """Raised in place of running a command whose arguments were accepted."""


@pytest.fixture
def _only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsers raise Parsed after accepting their arguments."""
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def parse(self: argparse.ArgumentParser, *args: object, real: object = real) -> argparse.Namespace:
            found = real(self, *args)  # type: ignore[operator]
            if self.prog == "speakerlm-shards":  # the table of commands; the command's own parser comes next
                return found
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT / "launch"), str(ROOT / "benchmarks"), *sys.path])


def check_main(target: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parser of a module or script accept the arguments, or exit as after --help."""
    monkeypatch.setattr(sys, "argv", [target, *arguments])
    try:
        if target.endswith(".py"):
            runpy.run_path(str(ROOT / target), run_name="__main__")
        elif hasattr(module := importlib.import_module(target), "main"):
            module.main(arguments) if inspect.signature(module.main).parameters else module.main()
        else:
            runpy.run_module(target, run_name="__main__")
    except Parsed:
        return
    except SystemExit as e:
        code = e.code
    else:
        code = "no command line was read"
    assert code in (0, None), f"{target} does not take {arguments}: {code}"


def check_recipe(arguments: list[str]) -> None:
    """Load the recipe of a training or preflight command with its overrides."""
    from pipeline.recipe.load import load_recipes
    from pipeline.recipe.shipped import RECIPES, find_recipe

    found = {a: find_recipe(a) for a in arguments}
    paths = [a for a, p in found.items() if a.endswith(".yaml") or p.is_relative_to(RECIPES) or (ROOT / p).is_dir()]
    assert paths, f"no recipe in {arguments}"
    stages = arguments[arguments.index("--stages") + 1] if "--stages" in arguments else None
    overrides = [a for a in arguments if re.match(r"[a-z][\w.]*=", a)]
    assert load_recipes(find_recipe(paths[0]), stages, overrides)


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check one command of the project; general shell commands pass."""
    name, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if name in LAUNCHERS:
        is_program = [w == "-m" or w.endswith(".py") or w.removeprefix(".venv/bin/") in SCRIPTS for w in arguments]
        program = arguments[is_program.index(True) :]
        check_command(program if program[0] in SCRIPTS else ["python", *program], monkeypatch)
    elif name == "speakerlm" and arguments[0] in TOOLS:
        check_program(TOOLS[arguments[0]], arguments[1:], monkeypatch)
    elif name in SCRIPTS:
        check_program(SCRIPTS[name], arguments, monkeypatch)
    elif name in ("python", "python3", "python3.11"):
        check_interpreter(arguments, monkeypatch)
    elif name in CHECKS:
        CHECKS[name](arguments, monkeypatch)
    else:
        assert name in SHELL, f"{name} is no command of this project, nor one of {sorted(SHELL)}"


def check_program(target: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a module or script by its parser, and the recipe that it names."""
    check_main(target, arguments, monkeypatch)
    if target in WITH_RECIPE and "--list" not in arguments:
        check_recipe(arguments)


def check_interpreter(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check `python -m MODULE …`, `python -c CODE` and `python SCRIPT …`."""
    if arguments[0] == "-c":
        compile(arguments[1], "docs", "exec")
    elif arguments[:2] == ["-m", "speakerlm"]:
        check_command(arguments[1:], monkeypatch)
    elif arguments[0] == "-m":
        if arguments[1] not in ("pip", "venv", "pytest"):
            check_program(arguments[1], arguments[2:], monkeypatch)
    elif arguments[0].startswith("tests/support/"):  # installs servers: not run
        assert (ROOT / arguments[0]).exists()
    else:
        check_program(arguments[0], arguments[1:], monkeypatch)


def check_make(arguments: list[str], _monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that targets exist."""
    unknown = [w for w in arguments if "=" not in w and w not in TARGETS]
    assert not unknown, f"no such target in the Makefile: {unknown}"


def check_extras(arguments: list[str], _monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that extras of the distribution exist."""
    extras = [e for w in arguments for e in re.findall(r"(?:speakerlm-pretrain|\.)\[([\w,-]+)\]", w)]
    unknown = {e for names in extras for e in names.split(",")} - set(PROJECT["optional-dependencies"])
    assert not unknown, f"no such extra in pyproject.toml: {unknown}"


def check_batch(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check `sbatch OPTIONS launch/slurm/SCRIPT …` by the program that the script starts."""
    here = next(i for i, w in enumerate(arguments) if w.startswith("launch/"))
    script, rest = ROOT / arguments[here], arguments[here + 1 :]
    assert script.exists()
    if script.name == "score.sbatch":
        assert len(rest) >= 3, "RUN OUT TEST"
    else:
        target, *first = BATCH[script.name]
        check_program(target, [*first, *rest], monkeypatch)


def check_chain(arguments: list[str], _monkeypatch: pytest.MonkeyPatch) -> None:
    """Check submit_all.sh's arguments: CORPORA RECIPES OUT TEST and overrides."""
    assert len(arguments) >= 4
    check_recipe([arguments[1] + "/stage1.yaml", *arguments[4:]])


CHECKS = {
    "make": check_make,
    "pip": check_extras,
    "bash": check_extras,
    "sbatch": check_batch,
    "launch/slurm/submit_all.sh": check_chain,
}


@pytest.mark.usefixtures("_only_parse")
@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_accepted_by_its_parser(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check_command(words, monkeypatch)


def test_there_are_commands_on_the_pages() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.usefixtures("_only_parse")
@pytest.mark.parametrize(
    "line",
    [
        "speakerlm-shards pack a b --no-such-flag",
        "speakerlm-score decoded a",
        "make no-such-target",
        "deepspeed launch/train.py launch/recipes/tiny/stage9.yaml",
        "deepspeed launch/train.py launch/recipes/tiny/stage1.yaml trainer.no_such_setting=1",
        "pip install speakerlm-pretrain[no-such-extra]",
        "speakerlm-fly a b",
        "speakerlm fly a b",
        "deepspeed --module speakerlm train tiny/stage9",
        "torchrun -m speakerlm train tiny/stage1 trainer.no_such_setting=1",
    ],
)
def test_a_wrong_command_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.errors import SpeakerLMError

    with pytest.raises((AssertionError, SpeakerLMError)):
        check_command(shlex.split(line), monkeypatch)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_known_language(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.why_not is not None:
        return
    if block.language == "python":
        check_python(block)
    elif block.language == "json":
        for line in block.text.splitlines():
            json.loads(line)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)


def check_python(block: Block) -> None:
    """Compile a block; what it imports from this project must exist."""
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("shards", "pipeline"):
            module = importlib.import_module(node.module)
            missing = [a.name for a in node.names if not hasattr(module, a.name)]
            assert not missing, f"{block}: {node.module} has no {missing}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("shards", "pipeline"):
                    importlib.import_module(alias.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if link.startswith(("http://", "https://")):
            continue
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_are_of_one_width(page: Path) -> None:
    """At most 120 characters, outside tables and fenced blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    long = [line for line in text.splitlines() if len(line) > 120 and not line.lstrip().startswith("|")]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_in_code_marks_exist(page: Path) -> None:
    """A path of this repository in backticks is one that exists."""
    if page.name == "CHANGELOG.md":  # names what was
        return
    folders = "shards|pipeline|launch|tests|benchmarks|ds_configs|docs"
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*\w)(?:::\w+)?`", text))
    holders = {"shards/NAME-000000.tar", "shards/corpora/NAME.py", "shards/corpora/my_corpus.py"}
    missing = [
        name for name in sorted(named) if not (ROOT / name).exists() and name not in holders and "NAME" not in name
    ]
    assert not missing


DRY = [param for param in COMMANDS if "--dry-run" in param.values[0] and param.values[0][1].startswith("launch/")]


@pytest.mark.parametrize("words", DRY)
def test_dry_runs_are_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words[1:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    assert end.value.code == 0
    assert "train_batch_size" in capsys.readouterr().out


def test_a_dry_run_is_on_the_pages() -> None:
    assert DRY


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_console_scripts_have_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(SCRIPTS[name])
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
