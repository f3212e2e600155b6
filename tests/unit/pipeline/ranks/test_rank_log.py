"""Log files of ranks, and which rank's log records are shown."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from pipeline.ranks.rank_log import log_records_of, rank_logging

logger = logging.getLogger("pipeline.train.example")


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process of torchrun, rank 0 of 2 unless a test changes it."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # rank_logging replaces both for the life of a process
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    return monkeypatch


def _log() -> None:
    logger.info("saved step 7")
    logger.warning("rank lags")


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "saved step 7\nWARNING rank lags\n"), (3, "[rank 3] WARNING rank lags\n")]
)
def test_first_rank_shows_all_records_others_show_warnings(
    number: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_records_of(number):
        _log()
    assert capsys.readouterr() == (shown, "")
    assert not logging.getLogger("pipeline").handlers


def test_records_of_the_first_rank_go_to_the_terminal_and_its_file(
    rank: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rank_logging(tmp_path):
        _log()
        print("50 %\r", end="")
        print("a fault", file=sys.stderr)
    out, err = capsys.readouterr()
    assert out == "saved step 7\nWARNING rank lags\n50 %\r"
    assert err == "a fault\n"
    head, *lines = (tmp_path / "logs" / "rank-0000.log").read_text().splitlines()
    assert "rank 0 of 2 on " in head
    assert lines == ["saved step 7", "WARNING rank lags", "a fault"]


def test_only_errors_of_other_ranks_go_to_the_terminal(
    rank: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rank.setenv("RANK", "1")
    for _ in range(2):  # a restarted run appends
        with rank_logging(tmp_path):
            _log()
            print("a fault", file=sys.stderr)
    assert capsys.readouterr() == ("", "a fault\na fault\n")
    text = (tmp_path / "logs" / "rank-0001.log").read_text()
    assert text.count("rank 1 of 2 on ") == text.count("[rank 1] WARNING rank lags\na fault\n") == 2
    assert "saved" not in text


def test_folder_that_cannot_be_written_does_not_stop_the_run(
    rank: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with rank_logging(tmp_path / "file"):
        _log()
    assert capsys.readouterr().out == "saved step 7\nWARNING rank lags\n"
