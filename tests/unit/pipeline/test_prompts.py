"""Prompts word by word, targets and their inverse, tokenisation piece by piece."""

from __future__ import annotations

import pytest

from pipeline.evaluation.parse import parse
from pipeline.prompts import (
    AudioPiece,
    Mode,
    PromptTokenizer,
    SpeakerPiece,
    TextPiece,
    prompt_pieces,
    target_pieces,
)
from shards.errors import ModelError
from shards.sample import Segment
from tests.support.prompts import encode_target, prompt_length, target_turns
from tests.support.tiny import TEXTS, make_tokenizer

SEGMENTS = (
    Segment("c:a", 0.0, 1.0, "hi,  how\nare you?"),
    Segment("c:b", 1.0, 2.0, "hi, I'm fine."),
    Segment("c:a", 2.0, 3.0, "at 10: 30"),
)
NAMES = {"c:a": "Mike", "c:b": "Lucy"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


def render(mode: Mode, names: tuple[str, ...] = ()) -> str:
    """A prompt as the paper prints it, with E0, E1 … for embeddings and AUDIO for the audio."""
    stand_in = {TextPiece: lambda p: p.text, AudioPiece: lambda _: "AUDIO", SpeakerPiece: lambda p: f"E{p.slot}"}
    return "".join(stand_in[type(p)](p) for p in prompt_pieces(mode, names))


def test_prompts_are_the_papers_word_by_word() -> None:
    assert render(Mode.ASR) == "Transcribe the speech. <start>AUDIO<end>"
    assert render(Mode.NO) == "Transcribe by roles. <start>AUDIO<end>"
    registered = (
        "Registered Speaker Embeddings:\nMike<start>E0<end>;\nLucy<start>E1<end>;\n"
        "Transcribe by roles. <start>AUDIO<end>"
    )
    assert render(Mode.MATCH, ("Mike", "Lucy")) == registered
    assert render(Mode.OVER, ("Mike", "Lucy")) == registered


def test_a_line_of_context_comes_first_and_only_where_there_are_terms() -> None:
    def text(mode: Mode, names: tuple[str, ...], terms: tuple[str, ...]) -> str:
        return "".join(getattr(p, "text", "*") for p in prompt_pieces(mode, names, terms))

    assert text(Mode.ASR, (), ("Mike Li", "GPU")) == "Context: Mike Li, GPU\nTranscribe the speech. <start>*<end>"
    assert text(Mode.NO, (), ("张三", "ZeRO")) == "Context:张三, ZeRO\nTranscribe by roles. <start>*<end>"
    registered = "Registered Speaker Embeddings:\nMike<start>*<end>;\nTranscribe by roles. <start>*<end>"
    assert text(Mode.MATCH, ("Mike",), ("GPU",)) == f"Context: GPU\n{registered}"
    for mode, names in ((Mode.ASR, ()), (Mode.NO, ()), (Mode.OVER, ("Mike",))):
        assert prompt_pieces(mode, names, ()) == prompt_pieces(mode, names)


def test_a_text_in_place_of_terms_is_refused() -> None:
    with pytest.raises(ModelError, match="give a list of terms"):
        prompt_pieces(Mode.NO, (), "Zoe Li")


@pytest.mark.parametrize(("mode", "names"), [(Mode.NO, ("A",)), (Mode.MATCH, ()), (Mode.OVER, ("A", "A"))])
def test_names_that_do_not_fit_the_mode_are_refused(mode: Mode, names: tuple[str, ...]) -> None:
    with pytest.raises(ModelError):
        prompt_pieces(mode, names)


def test_targets() -> None:
    assert target_turns(Mode.ASR, SEGMENTS) == ["hi, how are you? hi, I'm fine. at 10: 30"]
    assert target_turns(Mode.NO, SEGMENTS) == [
        "spk0: hi, how are you?",
        "spk1: hi, I'm fine.",
        "spk0: at 10: 30",
    ]
    assert target_turns(Mode.MATCH, SEGMENTS, NAMES)[1] == "Lucy: hi, I'm fine."
    with pytest.raises(ModelError, match="c:b"):
        target_pieces(Mode.MATCH, SEGMENTS, {"c:a": "Mike"})


@pytest.mark.parametrize("mode", [Mode.NO, Mode.MATCH, Mode.OVER])
def test_parsing_inverts_building(mode: Mode) -> None:
    turns = target_turns(mode, SEGMENTS, NAMES)
    expected = [tuple(t.split(": ", 1)) for t in turns]
    for names in ((), tuple(NAMES.values())):
        parsed = parse("\n".join(turns), names)
        assert [(t.speaker, t.text) for t in parsed.turns] == expected


def test_the_chat_template_surrounds_the_pieces(tokenizer: PromptTokenizer) -> None:
    layout = tokenizer.encode_prompt(prompt_pieces(Mode.MATCH, ("Mike",)))
    text = tokenizer.tokenizer.decode([item for item in layout if isinstance(item, int)])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Registered Speaker Embeddings:\nMike<start><end>;\nTranscribe by roles. <start><end><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [type(i) for i in layout if not isinstance(i, int)] == [SpeakerPiece, AudioPiece]


def test_tokens_of_a_target_are_those_of_its_pieces_and_decode_to_its_text(tokenizer: PromptTokenizer) -> None:
    pieces = target_pieces(Mode.MATCH, SEGMENTS, NAMES)
    ids = encode_target(tokenizer, pieces)
    assert len(ids) == sum(len(tokenizer.encode_piece(p)) for p in pieces) + 1
    assert ids[-1] == tokenizer.eos
    assert tokenizer.decode(ids) == "".join(pieces)


def test_lengths_of_prompts_add_up(tokenizer: PromptTokenizer) -> None:
    one, two = prompt_length(tokenizer, Mode.MATCH, ("Mike",)), prompt_length(tokenizer, Mode.MATCH, ("Mike", "你好ひ"))
    entry = sum(len(tokenizer.encode_piece(t)) for t in ("你好ひ", "<start>", "<end>;\n")) + 1
    assert two - one == entry


def test_special_tokens_in_a_transcript_stay_text(tokenizer: PromptTokenizer) -> None:
    ids = encode_target(tokenizer, [" a<|im_end|>b"])
    assert ids.count(tokenizer.eos) == 1
    assert tokenizer.decode(ids[:-1]) == "a<|im_end|>b"


def test_the_hash_follows_vocabulary_and_template(tokenizer: PromptTokenizer, tmp_path) -> None:
    again = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "same", TEXTS))
    other = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "other", TEXTS[:1]))
    assert again.hash == tokenizer.hash != other.hash
    assert PromptTokenizer(tokenizer.tokenizer, system="Other line.").hash != tokenizer.hash


def test_a_template_without_a_system_role_gets_the_line_before_the_question(tmp_path) -> None:
    hf = PromptTokenizer.from_folder(make_tokenizer(tmp_path, TEXTS)).tokenizer
    hf.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<u>{{ messages[0]['content'] }}</u>"
    )
    wrapped = PromptTokenizer(hf)
    assert hf.decode(wrapped.prefix) == "<u>You are a helpful assistant. "
    assert hf.decode(wrapped.suffix) == "</u>"


def test_a_tokenizer_without_chat_template_is_refused(tmp_path) -> None:
    hf = PromptTokenizer.from_folder(make_tokenizer(tmp_path, TEXTS)).tokenizer
    hf.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        PromptTokenizer(hf)
