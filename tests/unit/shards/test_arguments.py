"""Numbers on command lines."""

from __future__ import annotations

import argparse

import pytest

from pipeline.decode.test_set import main as decode
from pipeline.transcribe.cli import main as transcribe
from shards.arguments import natural, not_below_zero, positive
from shards.cli import main as shards


def test_what_fits_is_taken() -> None:
    assert [natural("0"), positive("7"), not_below_zero("0.5")] == [0, 7, 0.5]


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (natural, "-1"),
        (natural, "x"),
        (positive, "0"),
        (positive, "1.5"),
        (not_below_zero, "nan"),
        (not_below_zero, "x"),
    ],
)
def test_what_does_not_is_told(of: object, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a number from [01] on"):
        of(text)  # type: ignore[operator]


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
def test_commands_say_so_before_they_begin(command: object, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        command(arguments)  # type: ignore[operator]
    assert caught.value.code == 2
    assert "is not a number from 1 on" in capsys.readouterr().err
