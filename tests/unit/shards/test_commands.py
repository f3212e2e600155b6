"""How commands end."""

from __future__ import annotations

import pytest

from shards.commands import outcome
from shards.errors import AudioError


def test_an_exit_code_is_handed_on(capsys: pytest.CaptureFixture[str]):
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
def test_what_its_user_caused_is_a_line(error: BaseException, code: int, says: str, capsys):
    def work() -> int:
        raise error

    assert outcome("x", work) == code
    assert capsys.readouterr().err == says


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        outcome("x", lambda: 1 // 0)
