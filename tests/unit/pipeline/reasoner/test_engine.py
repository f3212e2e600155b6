"""The engine on a tiny model: what is computed, and that it equals computing a dialogue from its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.dialogue.build import DialogueRules, closer_look, known_pieces, opening
from pipeline.dialogue.wording import ENGLISH
from pipeline.model.stopping import Guards
from pipeline.prompts import AudioPiece, PromptTokenizer, TextPiece
from pipeline.reasoner.engine import EngineRules, SpeakerLMEngine
from pipeline.reasoner.loop import (
    KnownSpeaker,
    LoopLimits,
    ReasonerClip,
    Request,
    Sampling,
    Unfinished,
    reason,
    sampling,
)
from pipeline.reasoner.writing import Draft, Sampler
from pipeline.stages import Base
from shards.errors import AudioError

GUARDS = Guards(tokens_per_second=4, least_tokens=8, max_new_tokens=64, repeats=1000, shortest_run=1000)
RULES = EngineRules(encoder_calls=2, guards=GUARDS, share=1.0)


@pytest.fixture(scope="module", params=list(Base))
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PromptTokenizer]:
    from pipeline.model.build import build_model, load_tokenizer
    from pipeline.model.thinker import build_thinker
    from tests.support.thinkers import make_thinker, thinker_config
    from tests.support.tiny import make_base, model_config

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    if request.param is Base.SPEAKERLM:
        config = model_config(make_base(folder))
        config.projector.time_embedding = True
        model = build_model(config)
        torch.nn.init.normal_(model.audio_projector.time.weight)
        return attentive(model), load_tokenizer(config)
    config = thinker_config(make_thinker(folder, request.param), request.param)
    model = build_thinker(config)
    if request.param is Base.QWEN3_OMNI:
        model.llm.set_experts_implementation("eager")  # grouped products know no double precision
    return attentive(model), load_tokenizer(config)


def attentive(model: Any) -> Any:
    """A random model in double precision whose tokens depend on what is far before, and where."""
    for name, parameter in model.llm.named_parameters():
        if (parameter.ndim == 2 and ".layers." in f".{name}") or ".h." in name:
            parameter.data *= 10
    return model.double().eval()


def clip(key: str, seconds: float, known: bool = False) -> ReasonerClip:
    rng = np.random.default_rng(len(key) + int(seconds * 10))
    wave = rng.standard_normal(round(seconds * 16_000)).astype(np.float32) * 0.1
    entries = (KnownSpeaker("Male 1", wave[:16_000] * 0.5, "hi"),) if known else ()
    return ReasonerClip(key, wave, "en", entries)


def request(of: ReasonerClip, boxes: Sequence[tuple[int, int]] = (), replies: Sequence[str] = (), attempt: int = 0):
    entries = [(k.label, AudioPiece(0, len(k.audio), i), TextPiece(f" {k.text}\n")) for i, k in enumerate(of.known, 1)]
    questions = [opening(known_pieces(ENGLISH, entries), ENGLISH.reason)]
    questions += [closer_look(b, len(of.audio), i, ENGLISH, DialogueRules()) for i, b in enumerate(boxes, 1)]
    return Request(of, tuple(questions), tuple(replies), sampling(attempt), 8192)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Positions that the LLM computes, call by call."""
    found: list[int] = []
    hook = model.llm.get_decoder().register_forward_pre_hook(
        lambda m, a, kw: found.append(kw["inputs_embeds"].shape[0] * kw["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        yield found
    finally:
        hook.remove()


def layout(parts: tuple[Any, PromptTokenizer], asked: Request, ids: Sequence[Sequence[int]]) -> list[Any]:
    """A whole dialogue as training lays it out, with replies of these tokens; audio as (slice, start, place in it)."""
    tokenizer, eos = parts[1], parts[1].eos
    row: list[Any] = []
    for number, question in enumerate(asked.questions):
        if number:
            row += [*(t for t in ids[number - 1] if t != eos), eos]
        for item in tokenizer.encode_turn(question, number == 0, lambda _: ""):
            if isinstance(item, AudioPiece):
                wave = asked.clip.known[item.clip - 1].audio if item.clip else asked.clip.audio
                wave = wave[item.start :][: item.length]
                start = -1 if item.clip else item.start
                row += [(wave, start, at) for at in range(parts[0].positions(len(wave)))]
            else:
                row.append(item)
    return row


@torch.no_grad()
def from_the_start(parts: tuple[Any, PromptTokenizer], asked: Request, ids: Sequence[Sequence[int]], n: int):
    """The n greedy tokens after a dialogue, each computed from its first position, without a cache."""
    model, _ = parts
    row = layout(parts, asked, ids)
    embed = model.llm.get_input_embeddings()
    encoded: dict[int, torch.Tensor] = {}
    vectors = []
    for item in row:
        if isinstance(item, tuple):
            wave, start, at = item
            if id(wave) not in encoded:
                audio = torch.tensor(wave)[None], torch.tensor([len(wave)])
                when = {"waveform_starts": torch.tensor([start])} if hasattr(model, "audio_projector") else {}
                encoded[id(wave)] = model.encode_audio(*audio, **when)
            vectors.append(encoded[id(wave)][at])
        else:
            vectors.append(embed(torch.tensor(item)))
    found: list[int] = []
    for _ in range(n):
        hidden = model.llm(inputs_embeds=torch.stack(vectors)[None], use_cache=False).logits[0, -1]
        found.append(int(hidden.argmax()))
        vectors.append(embed(torch.tensor(found[-1])))
    return found


def test_replies_equal_those_of_dialogues_computed_from_their_start(parts):
    model, tokenizer = parts
    engine = SpeakerLMEngine(model, tokenizer, RULES)
    kept = engine._dialogues
    short, long = clip("a", 1.7), clip("b", 3.1, known=True)
    first = [request(short), request(long)]
    one = engine.answer(first)
    ids = {k: [list(kept[k].ids)] for k in "ab"}
    for asked in first:
        found = ids[asked.clip.key][0]
        assert found == from_the_start(parts, asked, [], len(found))
    # "a" is at its second turn while "b" tries its first again, then both continue, "b" one turn behind.
    again = engine.answer([request(short, [(20, 90)], [one[0]]), request(long, attempt=1)])
    assert again[1] == one[1]
    ids["a"].append(list(kept["a"].ids))
    third = [
        request(short, [(20, 90), (100, 160)], [one[0], again[0]]),
        request(long, [(0, 250)], [again[1]]),
    ]
    engine.answer(third)
    for asked in third:
        found = kept[asked.clip.key].ids
        assert found == from_the_start(parts, asked, ids[asked.clip.key], len(found))


def test_only_new_positions_are_computed(parts):
    model, tokenizer = parts
    engine = SpeakerLMEngine(model, tokenizer, RULES)
    of = clip("a", 2.0)
    with counted(model) as calls:
        first = engine.answer([request(of)])[0]
    ids = list(engine._dialogues["a"].ids)
    start = len(layout(parts, request(of), []))
    assert calls == [start] + [1] * (len(ids) - 1)
    with counted(model) as calls:  # another attempt with the likeliest tokens: the same reply
        assert engine.answer([request(of, attempt=2)]) == [first]
    assert calls == []
    with counted(model) as calls:  # a warm attempt: nothing of the question, and what follows the first token
        engine.answer([request(of, attempt=3)])
    assert calls == [1] * (len(engine._dialogues["a"].ids) - 1)
    with counted(model) as calls:  # the likeliest tokens after it are written, not repeated
        assert engine.answer([request(of)]) == [first]
    assert calls == [1] * (len(ids) - 1)
    asked = request(of, [(0, 100)], [first])
    with counted(model) as calls:
        engine.answer([asked])
    eos = [tokenizer.eos]
    unwritten = 1 if ids[-1:] == eos else 2  # the last token of a reply and its end were not in the cache
    assert calls[0] == len(layout(parts, asked, [ids])) - start - len([t for t in ids if t not in eos]) - 1 + unwritten
    before = engine._dialogues["a"].end
    with counted(model) as calls:  # and none of the turns before, twice
        engine.answer([replace(asked, sampling=sampling(7))])
    assert set(calls) == {1}
    assert engine._dialogues["a"].end == before


def test_a_released_dialogue_is_computed_again_and_another_reply_is_read_from_its_text(parts):
    model, tokenizer = parts
    engine = SpeakerLMEngine(model, tokenizer, RULES)
    of = clip("a", 1.0)
    engine.answer([request(of)])
    asked = request(of, [(0, 50)], ["yes"])
    text = engine.answer([asked])
    found = list(engine._dialogues["a"].ids)
    assert found == from_the_start(parts, asked, [list(tokenizer.encode_piece("yes"))], len(found))
    engine.release("a")
    assert not engine._dialogues
    assert engine.answer([asked]) == text


def test_a_full_context_and_the_limits_of_a_reply(parts):
    model, tokenizer = parts
    of, other = clip("a", 2.0), clip("b", 0.5)
    start = len(layout(parts, request(of), []))
    free = SpeakerLMEngine(model, tokenizer, replace(RULES, context=start + 64))
    assert free.answer([request(of)])[0] is not None
    full = SpeakerLMEngine(model, tokenizer, replace(RULES, context=start + 63))
    texts = full.answer([request(of), request(other)])
    assert texts[0] is None
    assert texts[1] is not None
    assert full.answer([request(of)]) == [None]
    assert len(full._dialogues["b"].ids) <= 10  # 8 + 4 per second of 0.5 s
    full.answer([replace(request(other), max_new_tokens=3)])
    assert len(full._dialogues["b"].ids) <= 3


def test_warm_attempts_differ_and_repeat_whatever_the_batch(parts):
    model, tokenizer = parts
    of, other = clip("a", 1.0), clip("b", 2.0)

    def tried(attempt: int, *more: Request) -> list[int]:
        engine = SpeakerLMEngine(model, tokenizer, RULES)
        engine.answer([*more, replace(request(of), sampling=Sampling(1.0, 0.9, 0, attempt))])
        return engine._dialogues["a"].ids

    assert tried(3) == tried(3, request(other))
    assert len({tuple(tried(k)) for k in range(3, 7)}) == 4


@pytest.mark.parametrize("attempt", [0, 3])
def test_short_replies_are_handed_back_and_the_others_continued(parts, attempt: int):
    model, tokenizer = parts
    asked = [request(clip("a", 0.5), attempt=attempt), request(clip("b", 4.0), attempt=attempt)]
    asked.append(request(clip("c", 6.0, known=True), attempt=attempt))
    whole = SpeakerLMEngine(model, tokenizer, RULES)
    with counted(model) as calls:
        texts = whole.answer(asked)
    engine = SpeakerLMEngine(model, tokenizer, replace(RULES, share=0.1))
    with counted(model) as again:
        found = engine.answer(asked)
        assert Unfinished.REPLY in found
        assert any(isinstance(text, str) for text in found)
        rounds = 1
        while Unfinished.REPLY in found:
            open_ = [i for i, text in enumerate(found) if text is Unfinished.REPLY]
            for i, text in zip(open_, engine.answer([asked[i] for i in open_]), strict=True):
                found[i] = text
            rounds += 1
    assert rounds > 1
    assert found == texts
    for key in "abc":
        assert engine._dialogues[key].ids == whole._dialogues[key].ids
        assert engine._dialogues[key].cache.get_seq_length() == whole._dialogues[key].cache.get_seq_length()
    assert len(again) == len(calls), "a token is computed twice"
    boxes = [(10, 40)]
    after = [request(a.clip, boxes, [text]) for a, text in zip(asked, texts, strict=True)]
    assert [engine.answer([a])[0] for a in after] == [whole.answer([a])[0] for a in after]


def test_a_reply_that_is_not_wanted_any_more_is_dropped(parts):
    model, tokenizer = parts
    engine = SpeakerLMEngine(model, tokenizer, replace(RULES, share=0.1))
    asked = [request(clip("a", 0.5)), request(clip("b", 4.0))]
    found = engine.answer(asked)
    assert found[1] is Unfinished.REPLY
    other = [replace(asked[1], sampling=sampling(4))]
    assert engine.answer(other) == SpeakerLMEngine(model, tokenizer, RULES).answer(other)


def test_a_random_model_always_ends(parts):
    engine = SpeakerLMEngine(*parts, RULES)
    clips = [clip("a", 0.7), clip("b", 1.0), clip("c", 0.9)]
    outcomes = reason(clips, engine, limits=LoopLimits(attempts=4, turns=2, batch=2))
    assert [o.key for o in outcomes] == ["a", "b", "c"]
    assert all(o.reason and o.attempts <= 8 for o in outcomes)
    assert not engine._dialogues


def test_audio_that_cannot_be_heard_is_refused(parts):
    engine = SpeakerLMEngine(*parts, RULES)
    bad = clip("a", 1.0)
    bad.audio[5000] = np.nan
    with pytest.raises(AudioError, match="a, audio: values from sample 0 on are not finite"):
        engine.answer([request(bad)])
    silent = ReasonerClip("b", clip("b", 1.0).audio, "en", (KnownSpeaker("Male 1", np.zeros(300, np.float32), "hi"),))
    with pytest.raises(AudioError, match="b, known speaker 1"):
        engine.answer([request(silent)])


def draws(setting: Sampling, logits: torch.Tensor, n: int = 2000) -> torch.Tensor:
    drafts = [Draft(None, logits, setting, n, "key")]
    sampler = Sampler(drafts, torch.device("cpu"))
    return torch.stack([sampler.choose(logits[None], torch.tensor([[i]])) for i in range(n)]).flatten()


def test_sampling_follows_temperature_top_p_and_top_k():
    logits = torch.tensor([0.1, 0.5, 0.3, 0.05, 0.05]).log()
    plain = draws(Sampling(1.0, 1.0, 0, 0), logits).bincount(minlength=5) / 2000
    assert torch.allclose(plain, logits.exp(), atol=0.04)
    assert set(draws(Sampling(1.0, 0.6, 0, 0), logits).tolist()) == {1, 2}  # 0.5 < 0.6, then 0.8
    assert set(draws(Sampling(1.0, 1.0, 3, 0), logits).tolist()) == {0, 1, 2}
    assert set(draws(sampling(0), logits).tolist()) == {1}
    warm = draws(Sampling(0.5, 1.0, 0, 0), logits).bincount(minlength=5) / 2000
    assert torch.allclose(warm, (logits * 2).softmax(-1), atol=0.04)


@pytest.mark.parametrize(
    ("kind", "conf"),
    [
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": 40}),  # shorter than a dialogue
        ("gpt_neox", {}),
        ("gpt2", {}),
    ],
)
def test_other_language_models_keep_their_caches_too(tmp_path: Path, kind: str, conf: dict[str, int]):
    from pipeline.model.build import build_model, load_tokenizer
    from tests.support.architectures import make_causal_lm
    from tests.support.tiny import make_base, model_config

    base = make_base(tmp_path)
    make_causal_lm(base.llm, kind, **conf)
    config = model_config(base)
    config.lora.targets = {"gpt_neox": ["dense"], "gpt2": ["c_proj"]}.get(kind, config.lora.targets)
    parts = attentive(build_model(config)), load_tokenizer(config)
    engine = SpeakerLMEngine(*parts, RULES)
    clips = [clip("a", 1.2), clip("b", 2.1, known=True)]
    first = engine.answer([request(c) for c in clips])
    ids = [list(engine._dialogues[c.key].ids) for c in clips]
    asked = [request(c, [(10, 70)], [text]) for c, text in zip(clips, first, strict=True)]
    engine.answer(asked)
    for one, before in zip(asked, ids, strict=True):
        found = engine._dialogues[one.clip.key].ids
        assert found == from_the_start(parts, one, [before], len(found))
