"""Stage 0 as a command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipeline.standins.__main__ as command


def _wait_for_kill(*args):
    Path(args[0] / str(os.getpid())).write_text("")
    time.sleep(120)


def _die(*args):
    os.kill(os.getpid(), signal.SIGKILL)


def _fail_after_the_other_began(*args):
    _wait_until(lambda: list(args[0].iterdir()))
    raise ValueError("a shard is broken")


def _nothing(*args):
    pass


@pytest.fixture
def no_words(monkeypatch):
    monkeypatch.setattr(command, "words_by_language", lambda data: {})
    monkeypatch.setattr(command, "write_tokenizer", lambda out, words: None)


def test_a_killed_process_is_an_error_and_leaves_no_proof(tmp_path, monkeypatch, no_words, capsys):
    monkeypatch.setattr(command, "train_encoder", _die)
    monkeypatch.setattr(command, "train_llm", _nothing)
    assert command.main([str(tmp_path), str(tmp_path)]) == 1
    assert "was killed, perhaps out of memory" in capsys.readouterr().err
    assert not (tmp_path / "encoder.done").exists()


def test_an_error_ends_the_other_process(tmp_path, monkeypatch, no_words):
    monkeypatch.setattr(command, "train_encoder", _fail_after_the_other_began)
    monkeypatch.setattr(command, "train_llm", _wait_for_kill)
    with pytest.raises(ValueError, match="a shard is broken"):
        command.main([str(tmp_path), str(tmp_path)])
    (pid,) = (p.name for p in tmp_path.iterdir())
    assert not Path("/proc", pid).exists()


def test_both_done_is_written_down(tmp_path, monkeypatch, no_words):
    monkeypatch.setattr(command, "train_encoder", _nothing)
    monkeypatch.setattr(command, "train_llm", _nothing)
    assert command.main([str(tmp_path), str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"encoder.done", "llm.done"}


def test_one_part_alone(tmp_path, monkeypatch, no_words):
    monkeypatch.setattr(command, "train_encoder", _die)
    monkeypatch.setattr(command, "train_llm", _nothing)
    assert command.main([str(tmp_path), str(tmp_path), "--only", "llm"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"llm.done"}


SCRIPT = """
import sys
import pipeline.standins.__main__ as command
from tests.unit.pipeline.standins.test_main import _wait_for_kill
command.words_by_language, command.write_tokenizer = (lambda data: {}), (lambda out, words: None)
command.train_encoder = command.train_llm = _wait_for_kill
if __name__ == "__main__":
    command.main([sys.argv[1], sys.argv[1]])
"""


def test_no_process_outlives_a_killed_stage_0(tmp_path):
    script, pids = tmp_path / "stage0.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pids)], env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    _wait_until(lambda: len(list(pids.iterdir())) == 2)
    parent.kill()
    parent.wait()
    _wait_until(lambda: not any(Path("/proc", p.name).exists() for p in pids.iterdir()))


AS_A_COMMAND = """
import runpy, sys
import pipeline.standins.words as words
words.words_by_language, words.write_tokenizer = (lambda data: {}), (lambda out, words: None)
runpy.run_module("pipeline.standins", run_name="__main__", alter_sys=True)
"""


def test_its_processes_find_their_work_when_it_is_called_as_a_command(tmp_path):
    """A spawned process does not find functions of `__main__`. Here they say that the tokenizer is missing."""
    ran = subprocess.run(
        [sys.executable, "-c", AS_A_COMMAND, str(tmp_path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.count("no usable tokenizer") == 1, ran.stderr
    assert "Traceback" not in ran.stderr


def _wait_until(condition):
    until = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
