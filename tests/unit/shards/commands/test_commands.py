"""Exit codes, error lines and log messages of commands."""

from __future__ import annotations

import logging

import pytest

from shards.commands import command_logging, outcome
from shards.errors import AudioError


def test_exit_code_is_returned(capsys: pytest.CaptureFixture[str]):
    assert [outcome("x", lambda code=code: code) for code in (0, 3)] == [0, 3]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (AudioError("a.wav: holds no audio"), 1, "x: a.wav: holds no audio\n"),
        (OSError(28, "No space left on device", "out/a"), 1, "x: [Errno 28] No space left on device: 'out/a'\n"),
        (KeyboardInterrupt(), 130, "\nx: interrupted; run it again\n"),
    ],
)
def test_user_errors_are_one_line_on_stderr(error: BaseException, code: int, says: str, capsys):
    def work() -> int:
        raise error

    assert outcome("x", work) == code
    assert capsys.readouterr().err == says


def test_programming_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        outcome("x", lambda: 1 // 0)


def test_log_messages_go_to_stderr_with_the_program_name(capsys: pytest.CaptureFixture[str]):
    def work() -> int:
        logging.getLogger("shards.somewhere").info("packed %d samples", 3)
        logging.getLogger("pipeline.somewhere").warning("skipped %s", "a.wav")
        logging.getLogger("shards.somewhere").debug("not shown")
        logging.getLogger("another.library").info("not shown")
        return 0

    outcome("x", work)
    assert capsys.readouterr() == ("", "x: packed 3 samples\nx: warning: skipped a.wav\n")


def test_logging_is_restored_after_a_command(capsys: pytest.CaptureFixture[str]):
    package = logging.getLogger("shards")
    before = (package.level, list(package.handlers))
    with command_logging("x"):
        assert package.level == logging.INFO
    assert (package.level, list(package.handlers)) == before


def test_library_that_configures_the_root_logger_repeats_no_message(capsys: pytest.CaptureFixture[str]):
    root, handler = logging.getLogger(), logging.StreamHandler()

    def work() -> int:
        root.addHandler(handler)
        logging.getLogger("shards").warning("once")
        return 0

    try:
        outcome("x", work)
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "x: warning: once\n"


@pytest.mark.parametrize("library", ["torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops"])
def test_what_libraries_warn_of_at_import_is_omitted(library: str) -> None:
    log = logging.getLogger(library)
    with command_logging("tool"):
        assert not log.isEnabledFor(logging.WARNING)
        assert log.isEnabledFor(logging.ERROR)
    assert log.isEnabledFor(logging.WARNING)
