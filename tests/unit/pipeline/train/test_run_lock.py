"""The lock on a run's output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.ranks.launch import Ranks
from pipeline.train.run_lock import LOCK, locked
from shards.errors import ConfigError
from tests.support.distributed import ROOT

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
HOLD = """
import os, sys, time
from pathlib import Path
from pipeline.ranks.launch import Ranks
from pipeline.train.run_lock import locked
with locked(Path(sys.argv[1]), Ranks(0, 1, 0, None)):
    if os.fork() == 0:  # as a loader process, which may outlive a killed run for some seconds
        time.sleep(3)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_the_first_named(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError, match=rf"is being trained by process {holder.pid} on .* since 20\d\d"):
        locked(tmp_path, ALONE).__enter__()


def test_a_killed_run_blocks_no_other_run(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with locked(tmp_path, ALONE):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert time.monotonic() - began < 2, "its forked child still held the lock"


def test_a_run_can_follow_a_run_in_one_process(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path, ALONE):
            pass


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="set another output"):
        locked(tmp_path / "file", ALONE).__enter__()
