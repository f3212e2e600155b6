"""The parser of all commands: typing errors, version, completion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from pipeline.baselines.cli import main as baseline
from pipeline.decode.test_set import main as decode
from pipeline.evaluation.cli import main as score
from pipeline.preflight.cli import main as preflight
from pipeline.transcribe.cli import main as transcribe
from shards.cli import main as shards
from shards.commands.parser import Parser
from tests.support.completion import completed


def example() -> Parser:
    parser = Parser(prog="example")
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--ref-format")
    parser.add_argument("--number", "-n", type=int)
    parser.add_argument("--vad", choices=("silero", "energy"))
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    return parser


def said(parse, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a usage error."""
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("way", ["parse_args", "parse_known_args", "parse_intermixed_args"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "--hlep"], "unknown option --hlep; did you mean --help?"),
        (["a", "--format", "stm"], "unknown option --format; did you mean --ref-format?"),
        (["a", "--format=stm"], "unknown option --format; did you mean --ref-format?"),
        (["--format", "stm"], "unknown option --format; did you mean --ref-format?"),  # a file is missing, too
        (["--hidden", "1", "--hiden"], "unknown option --hiden; see --help"),
        (["a", "-x"], "unknown option -x; see --help"),
        (["a", "--vad", "silro"], "argument --vad: 'silro' is none of silero, energy; did you mean silero?"),
        (["a", "--vad", "x"], "argument --vad: 'x' is none of silero, energy"),
        (["--number", "7"], "the following arguments are required: file"),
        (["--", "a", "--hlep"], None),
        (["a", "-n7", "--num", "8", "--ref-format=-"], None),
        (["a", "--number", "-7"], None),
    ],
)
def test_typing_errors_name_the_nearest(way: str, arguments: list[str], says: str | None, capsys) -> None:
    if way == "parse_intermixed_args" and "--" in arguments:
        pytest.skip("argparse itself takes what follows -- for options here")
    parse = getattr(example(), way)
    if says is None:
        parse(arguments)
    else:
        assert said(parse, arguments, capsys) == f"example: error: {says}"


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (shards, "pakc m o", "'pakc' is none of .*; did you mean pack\\?"),
        (shards, "--hlep", "unknown option --hlep; did you mean --help\\?"),
        (shards, "pack --wokers 2", "unknown option --wokers; did you mean --workers\\?"),
        (baseline, "corect a b", "'corect' is none of .*; did you mean correct\\?"),
        (baseline, "correct --lm x", "unknown option --lm; did you mean --llm\\?"),
        (transcribe, "--modle x", "unknown option --modle; did you mean --model\\?"),
        (decode, "a b --bach 2", "unknown option --bach; did you mean --batch\\?"),
        (score, "decoded a --uot b", "unknown option --uot; did you mean --out\\?"),
        (score, "a b --refformat x", "unknown option --refformat; did you mean --ref-format\\?"),
        (preflight, "--crad H100-80", "unknown option --crad; did you mean --card\\?"),
    ],
)
def test_commands_name_the_nearest(command, arguments: str, says: str, capsys) -> None:
    assert re.search(says, said(command, arguments.split(), capsys))


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        decode(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"speakerlm-pretrain (\d+\.\d+\.\d+|of a checkout.*)\n", capsys.readouterr().out)


# ---------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("shards.cli", "speakerlm-shards pa", {"pack"}),
        ("shards.cli", "speakerlm-shards pack m --wor", {"--workers"}),
        ("pipeline.transcribe.cli", "speakerlm-transcribe a.wav --vad ", {"silero", "energy"}),
        ("pipeline.evaluation.cli", "speakerlm-score decoded x --tit", {"--title"}),
        ("pipeline.evaluation.cli", "speakerlm-score a b --ref", {"--ref-format"}),
        ("pipeline.baselines.cli", "speakerlm-baseline correct a b --keep", {"--keep-words"}),
    ],
)
def test_shells_complete_commands_options_and_choices(module: str, line: str, words: set[str], tmp_path: Path) -> None:
    assert completed(module, line, tmp_path) == words
