"""Validated argparse types."""

from __future__ import annotations

import argparse

import pytest

from pipeline.decode.test_set import main as decode
from pipeline.transcribe.cli import main as transcribe
from shards.arguments import integer_range, natural, non_negative, number_range, positive
from shards.cli import main as shards


def test_valid_numbers_are_parsed() -> None:
    assert [natural("0"), positive("7"), non_negative("0.5")] == [0, 7, 0.5]
    assert [number_range("40-50"), number_range("0.5"), integer_range("2-4")] == [(40, 50), (0.5, 0.5), (2, 4)]


@pytest.mark.parametrize(("parse", "text"), [(number_range, "a-b"), (integer_range, "2-4.5"), (integer_range, "")])
def test_invalid_ranges_are_rejected(parse: object, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a range .*like 2-4"):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["20-15", "nan", "5-inf", "1e999"])
@pytest.mark.parametrize("command", [["clips", "m", "o"], ["simulate", "m", "o", "--count", "1"]])
def test_error_about_an_empty_range_names_the_option(command: list[str], text: str, capsys) -> None:
    with pytest.raises(SystemExit):
        shards([*command, "--seconds", text])
    assert f"argument --seconds: {text!r} is not a range MIN-MAX" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (natural, "-1"),
        (natural, "x"),
        (positive, "0"),
        (positive, "1.5"),
        (non_negative, "nan"),
        (non_negative, "x"),
    ],
)
def test_invalid_numbers_are_rejected(parse: object, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not (a number|an integer) >= [01]"):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (decode, ["run", "data", "out", "--batch", "0"]),
        (decode, ["run", "data", "out", "--limit", "-3"]),
        (shards, ["pack", "m", "o", "--workers", "0"]),
        (shards, ["pack", "m", "o", "--samples-per-shard", "0"]),
        (transcribe, ["a.wav", "--model", "run", "--batch", "0"]),
    ],
)
def test_commands_reject_invalid_numbers_before_any_work(command: object, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        command(arguments)  # type: ignore[operator]
    assert caught.value.code == 2
    assert "is not an integer >= 1" in capsys.readouterr().err
