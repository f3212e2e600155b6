"""What is left of an answer that a guard stopped."""

from __future__ import annotations

import pytest

from pipeline.decode.generate import Answer
from pipeline.transcribe.transcript import readable

TURNS = "".join(f"spk{i % 2}: this is turn {i}\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (TURNS + "and so on " * 12, TURNS + "and so on "),
        (TURNS + "and so on " * 12 + "and s", TURNS + "and so on "),
        ("spk0: ha ha ha ha ha ha, good.\n" + TURNS + "a" * 30, "spk0: ha ha ha ha ha ha, good.\n" + TURNS + "a"),
        (TURNS, TURNS),
    ],
)
def test_only_the_loop_at_the_end_is_shortened(text: str, kept: str) -> None:
    assert readable(Answer(text, "loop", 100)) == (kept, ("stopped in a loop",))


def test_text_at_the_token_limit_is_kept_whole() -> None:
    text = "spk0: it cost 1000000 euros\n" + TURNS
    assert readable(Answer(text, "limit", 100))[0] == text
    assert readable(Answer(text, "end", 100)) == (text, ())
