"""Prompts and targets on Qwen2.5's real vocabulary, token by token."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import pytest

from pipeline.prompts import AudioPiece, Mode, PromptTokenizer, SpeakerPiece, prompt_pieces, target_pieces
from pipeline.standins.random_models import QWEN_PATTERN
from shards.sample import Segment
from tests.support.prompts import encode_target, prompt_length
from tests.support.qwen import SPECIAL, qwen_ranks, write_qwen_tokenizer

SEGMENTS = (
    Segment("a", 0.0, 1.0, "hi, how are you?"),
    Segment("b", 1.0, 2.0, "hi, I'm fine."),
    Segment("a", 2.0, 3.0, "今天3点开会。"),
    Segment("b", 3.0, 4.0, "好的"),
)
HEAD = "151644 8948 198 2610 525 264 10950 17847 13 151645 198 151644 872 198"  # system line, the user's turn begins
TAIL = "151645 198 151644 77091 198"  # it ends, the assistant's begins
START, END, CLOSE = "27 2468 29", "27 408 29", "27 408 10133"  # <start> · <end> · <end>;\n
ROLES = f"3167 3114 553 12783 13 366 2468 29 AUDIO {END}"  # Transcribe by roles. <start>…<end>
REGISTERED = "41430 29073 37068 24602 510"  # Registered Speaker Embeddings:\n
MIKE, LUCY, WEI, XIAOMING = "34441", "40645 88", "86341 100201", "99445 30709 30858"
PROMPTS = {
    (Mode.ASR, ()): f"{HEAD} 3167 3114 279 8806 13 366 2468 29 AUDIO {END} {TAIL}",
    (Mode.NO, ()): f"{HEAD} {ROLES} {TAIL}",
    (Mode.MATCH, ("Mike", "Lucy")): (
        f"{HEAD} {REGISTERED} {MIKE} {START} E0 {CLOSE} {LUCY} {START} E1 {CLOSE} {ROLES} {TAIL}"
    ),
    (Mode.OVER, ("张伟", "Lucy", "王小明")): (
        f"{HEAD} {REGISTERED} {WEI} {START} E0 {CLOSE} {LUCY} {START} E1 {CLOSE} {XIAOMING} {START} E2 {CLOSE} "
        f"{ROLES} {TAIL}"
    ),
}
HI, FINE = "15588 11 1246 525 498", "15588 11 358 2776 6915"  # " hi, how are you" · " hi, I'm fine"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return PromptTokenizer.from_folder(write_qwen_tokenizer(tmp_path_factory.mktemp("qwen")))


def shown(layout: list[object]) -> str:
    """A prompt's layout as the table above writes it."""
    words = {AudioPiece: lambda _: "AUDIO", SpeakerPiece: lambda p: f"E{p.slot}", int: str}
    return " ".join(words[type(item)](item) for item in layout)


def test_the_tokenizer_agrees_with_a_second_implementation(qwen: PromptTokenizer) -> None:
    """tiktoken on the same ranks: another program for the same byte-pair encoding."""
    import tiktoken

    lines = (line.split() for line in qwen_ranks().read_bytes().splitlines() if line.strip())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = {s: 151643 + i for i, s in enumerate(SPECIAL)}
    other = tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    texts = [*Path(__file__).parent.glob("*.py"), *Path(__file__).parents[3].glob("docs/*.md")]
    total = 0
    for text in (p.read_text(encoding="utf-8") for p in texts):
        expected = other.encode(unicodedata.normalize("NFC", text), disallowed_special=())
        assert list(qwen.encode_piece(text)) == expected
        total += len(expected)
    assert total > 20_000
    assert qwen.tokenizer.convert_tokens_to_ids(SPECIAL) == [151643, 151644, 151645]


@pytest.mark.parametrize(("mode", "names"), PROMPTS, ids=[m.value for m, _ in PROMPTS])
def test_prompts_token_by_token(qwen: PromptTokenizer, mode: Mode, names: tuple[str, ...]) -> None:
    assert shown(qwen.encode_prompt(prompt_pieces(mode, names))) == PROMPTS[mode, names]


@pytest.mark.parametrize(
    ("mode", "names", "expected"),
    [
        (
            Mode.ASR,
            {},
            "6023 11 1246 525 498 30 15588 11 358 2776 6915 13 220 100644 18 27442 113716 1773 4891 98 121 9370",
        ),
        (
            Mode.NO,
            {},
            f"2154 74 15 25 {HI} 5267 2154 74 16 25 {FINE} 624 2154 74 15 25 220 100644 18 27442 113716 8997 "
            "2154 74 16 25 4891 98 121 9370",
        ),
        (
            Mode.MATCH,
            {"a": "张伟", "b": "Lucy"},
            f"{WEI} 25 {HI} 5267 {LUCY} 25 {FINE} 624 {WEI} 25 220 100644 18 27442 113716 8997 "
            f"{LUCY} 25 4891 98 121 9370",
        ),
    ],
    ids=["asr", "no", "match"],
)
def test_targets_token_by_token(qwen: PromptTokenizer, mode: Mode, names: dict[str, str], expected: str) -> None:
    assert " ".join(map(str, encode_target(qwen, target_pieces(mode, SEGMENTS, names)))) == f"{expected} 151645"


@pytest.mark.parametrize("mode", Mode)
def test_pieces_give_the_tokens_of_the_whole_text(qwen: PromptTokenizer, mode: Mode) -> None:
    """What the LLM has read in its own training: punctuation and line end in one token, names cut as words are."""
    pieces = target_pieces(mode, SEGMENTS, {"a": "王小明", "b": "Lucy"})
    assert encode_target(qwen, pieces)[:-1] == list(qwen.encode_piece("".join(pieces)))


def test_a_hundred_registered_speakers_take_few_positions(qwen: PromptTokenizer) -> None:
    names = [
        f"{a}{b}"
        for a in "王李张刘陈杨黄赵周吴"
        for b in ("伟", "小明", "芳芳", "丽", "强", "军", "洋", "勇", "艳", "杰")
    ]
    assert prompt_length(qwen, Mode.OVER, names) < 1100  # of the paper's 6,000; a 50 s clip's audio takes 417
