"""An engine of the loop on our own model: every dialogue keeps its KV cache, and a turn computes only what is new.

The questions that wait are encoded together, their slices of audio in a few padded encoder calls. Each is then computed
alone, on the cache of its own dialogue, so dialogues of any length need no padding. The replies are written together
(:mod:`pipeline.reasoner.writing`). The tokens of a reply stay in the cache as the model wrote them. Another attempt
goes back to the end of the question, whose last hidden state is kept: it computes no position twice. If it takes the
most likely tokens as the one before it, it is that reply again, and nothing is computed. A short reply does not wait
for the longest: it is handed back when a share of the replies has ended, and the next call continues the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.encoder_calls import partition_audios
from pipeline.model.stopping import AnswerTokens, Guards
from pipeline.prompts import LEAST_TOKENS, AudioPiece, Layout, PromptTokenizer, WordsPiece
from pipeline.reasoner.calls import Call, Calls
from pipeline.reasoner.loop import ReasonerClip, Request, Unfinished
from pipeline.reasoner.writing import Draft, new_cache, next_logits, write
from shards.errors import AudioError, ModelError

_SHORTEST = 400  # samples that make an encoder's frame
# A reply may hold the transcript of the clip and of the slice. A line has about 20 tokens around its words.
_GUARDS = Guards(tokens_per_second=40.0, least_tokens=256, max_new_tokens=8192)


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Bounds of dialogues."""

    context: int = 32_768  # positions of a dialogue, as the public script; less if the LLM has less
    encoder_calls: int = 4  # for the slices of the questions that wait
    guards: Guards = _GUARDS
    # Of the replies that are written: when so many have ended, they are handed back, and their dialogues continue.
    share: float = 0.25


@dataclass
class _Kept:
    """What is kept of a dialogue."""

    cache: Any = field(default_factory=new_cache)
    questions: int = 0  # of the dialogue that are in the cache
    taken: list[str] = field(default_factory=list)  # replies between them
    end: int = 0  # positions up to the end of the last question
    logits: Tensor | None = None  # (V,) there
    ids: list[int] = field(default_factory=list)  # of the last attempt; all but the last are in the cache
    text: str | None = None
    asked: Request | None = None  # the last attempt
    draft: Draft | None = None  # of it, if it has not ended


@dataclass
class _Waiting:
    """Positions that are new in a request."""

    request: Request
    kept: _Kept
    layout: Layout


class SpeakerLMEngine:
    """Answers dialogues with a model of stages 11 to 13."""

    def __init__(
        self, model: Any, tokenizer: PromptTokenizer, rules: EngineRules | None = None, calls: Calls | None = None
    ) -> None:
        """Take a loaded model, on its device; ``calls`` of a model that ZeRO-3 partitions are made by all ranks."""
        self._model, self._tokenizer, self._rules = model.eval(), tokenizer, rules or EngineRules()
        self._calls = calls or Calls()
        config = model.llm.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or self._rules.context
        self._context = min(self._rules.context, limit)
        self._dialogues: dict[str, _Kept] = {}

    def release(self, key: str) -> None:
        """Drop the cache of a dialogue."""
        self._dialogues.pop(key, None)

    def answer(self, requests: Sequence[Request]) -> list[str | Unfinished | None]:
        """Return a reply for each request; None: fewer than 64 positions are left of the context.

        It returns when a share of the replies has ended. The same request continues one that has not.

        Raises:
            AudioError: a slice is shorter than a frame, or not finite.
        """
        with self._calls.mode():
            return self._answer(requests)

    def _answer(self, requests: Sequence[Request]) -> list[str | Unfinished | None]:
        replies: list[str | Unfinished | None] = [self._again(r) for r in requests]
        new = [i for i, reply in enumerate(replies) if reply is None]
        for i, reply in zip(new, self._write([requests[i] for i in new]), strict=True):
            replies[i] = reply
        return replies

    def _again(self, request: Request) -> str | None:
        """Return the reply of the last attempt if another one would draw the same: both take the likeliest tokens."""
        kept = self._dialogues.get(request.clip.key)
        last = kept.asked if kept is not None else None
        if kept is None or last is None or not last.sampling.top_k == request.sampling.top_k == 1:
            return None
        return kept.text if _asks(last) == _asks(request) else None

    def _begun(self, request: Request) -> Draft | None:
        """Return the draft of a request whose reply has not ended."""
        kept = self._dialogues.get(request.clip.key)
        if kept is None or kept.draft is None or kept.asked is None:
            return None
        same = (*_asks(kept.asked), kept.asked.sampling) == (*_asks(request), request.sampling)
        return kept.draft if same else None

    def _write(self, requests: Sequence[Request]) -> list[str | Unfinished | None]:
        """Compute what is new in each dialogue, and write the replies."""
        drafts = {i: draft for i, r in enumerate(requests) if (draft := self._begun(r)) is not None}
        waiting = {i: self._waiting(r) for i, r in enumerate(requests) if i not in drafts}
        able = {i: w for i, w in waiting.items() if w.kept.end + self._size(w) + LEAST_TOKENS <= self._context}
        self._compute([w for w in able.values() if w.layout])
        drafts |= {i: self._draft(w) for i, w in able.items()}
        replies: list[str | Unfinished | None] = [None] * len(requests)
        if drafts:
            chosen, eos, rules = list(drafts.values()), self._tokenizer.eos, self._rules
            written = write(self._model.llm, chosen, eos, rules.guards, self._calls, rules.share)
            for (i, draft), tokens in zip(drafts.items(), written, strict=True):
                replies[i] = self._keep(requests[i], draft, tokens)
        return replies

    def _keep(self, request: Request, draft: Draft, tokens: AnswerTokens) -> str | Unfinished:
        """Keep what was written of a reply; return it if it has ended."""
        kept, ids = self._dialogues[request.clip.key], tokens.ids
        kept.ids, kept.asked, kept.text, kept.draft = ids, request, None, draft
        if tokens.stop is None:
            return Unfinished.REPLY
        kept.draft = None
        kept.text = self._tokenizer.decode(ids[:-1] if ids[-1] == self._tokenizer.eos else ids)
        return kept.text

    def _waiting(self, request: Request) -> _Waiting:
        """Go back to the end of the question of another attempt, or lay out what a new question adds."""
        kept = self._dialogues.get(request.clip.key)
        if kept is None or list(request.replies[: max(0, kept.questions - 1)]) != kept.taken:
            kept = self._dialogues[request.clip.key] = _Kept()
        kept.draft = None
        layout: Layout = []
        own = kept.questions - 1  # number of the reply that was tried last
        if own >= 0 and (len(request.questions) == kept.questions or request.replies[own] != kept.text):
            if extra := kept.cache.get_seq_length() - kept.end:
                kept.cache.crop(-extra)
            own = -1
        for number in range(kept.questions, len(request.questions)):
            if number:
                layout += self._reply(kept, request.replies[number - 1], number - 1 == own)
            layout += self._tokenizer.encode_turn(request.questions[number], number == 0, _no_words)
        return _Waiting(request, kept, layout)

    def _reply(self, kept: _Kept, text: str, own: bool) -> list[int]:
        """Tokens of a reply that are not in the cache, its end token included."""
        eos = self._tokenizer.eos
        if not own:
            return [*self._tokenizer.encode_piece(text), eos]
        kept.end = kept.cache.get_seq_length()
        return [eos] if kept.ids[-1] == eos else [kept.ids[-1], eos]

    def _size(self, waiting: _Waiting) -> int:
        clip = waiting.request.clip
        return sum(
            self._model.positions(len(_slice(clip, x))) if isinstance(x, AudioPiece) else 1 for x in waiting.layout
        )

    def _draft(self, waiting: _Waiting) -> Draft:
        request, kept = waiting.request, waiting.kept
        assert kept.logits is not None  # computed with the question
        heard = [len(request.clip.audio)]
        if len(request.questions) > 1:
            heard += [len(_slice(request.clip, x)) for x in request.questions[-1] if isinstance(x, AudioPiece)]
        limit = min(request.max_new_tokens, self._rules.guards.limit(sum(heard)), self._context - kept.end)
        draw = f"{request.clip.draw or request.clip.key}\x1f{len(request.replies)}"
        return Draft(kept.cache, kept.logits, request.sampling, limit, draw)

    def _compute(self, waiting: Sequence[_Waiting]) -> None:
        """Embed the new positions of all, and run each dialogue's through the LLM after its cache."""
        if not waiting:
            return
        llm = self._model.llm
        embeds = self._embed(waiting).split([self._size(w) for w in waiting])
        for one, new in zip(waiting, embeds, strict=True):
            kept = one.kept
            start, kept.end = kept.end, kept.end + len(new)
            mask = torch.ones(1, kept.end, dtype=torch.long, device=new.device)
            places = torch.arange(start, kept.end, device=new.device)
            read = partial(next_logits, llm, new[None], mask, places[None], kept.cache)
            kept.logits = self._calls.make(Call.READ, read)[0]
            kept.questions, kept.taken = len(one.request.questions), list(one.request.replies)
            kept.ids, kept.text, kept.asked = [], None, None

    def _embed(self, waiting: Sequence[_Waiting]) -> Tensor:
        """(N, H) LLM inputs of the new positions of all, one after the other."""
        ids: list[int] = []
        slices: list[Tensor] = []
        places: list[range] = []
        starts: list[int] = []
        for one in waiting:
            for item in one.layout:
                if isinstance(item, AudioPiece):
                    wave = _checked(one.request.clip, item)
                    places.append(range(len(ids), len(ids) + self._model.positions(len(wave))))
                    slices.append(wave)
                    starts.append(-1 if item.clip else item.start)
                    ids += [self._tokenizer.pad] * len(places[-1])
                elif isinstance(item, int):
                    ids.append(item)
        lengths = [len(wave) for wave in slices]
        most = self._calls.encoder_calls or self._rules.encoder_calls
        groups = partition_audios(lengths, most, self._model.config.frame_multiple)
        order = [i for group in groups for i in group]
        device = self._model.device
        rows = tuple(torch.nn.utils.rnn.pad_sequence([slices[i] for i in g], batch_first=True) for g in groups)
        embed = partial(
            self._model.embed,
            tuple(r.to(device) for r in rows),
            torch.tensor([len(slices[i]) for i in order]),
            torch.tensor(ids, device=device),
            torch.tensor([at for i in order for at in places[i]], device=device),
            torch.zeros(1, self._model.config.speaker_dim, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
            waveform_starts=torch.tensor([starts[i] for i in order]),
        )
        return self._calls.make(Call.EMBED, embed)


def _asks(request: Request) -> tuple[object, ...]:
    """Return what a request asks, whatever its attempt."""
    return request.questions, request.replies, request.max_new_tokens


def _no_words(piece: WordsPiece) -> str:
    raise ModelError(f"{piece}: a dialogue that is answered has its words as text")


def _slice(clip: ReasonerClip, piece: AudioPiece) -> Any:
    wave = clip.known[piece.clip - 1].audio if piece.clip else clip.audio
    return wave[piece.start :] if piece.length is None else wave[piece.start : piece.start + piece.length]


def _checked(clip: ReasonerClip, piece: AudioPiece) -> Tensor:
    wave = torch.as_tensor(_slice(clip, piece), dtype=torch.float32)
    where = f"{clip.key}, {'known speaker ' + str(piece.clip) if piece.clip else 'audio'}"
    if wave.ndim != 1 or len(wave) < _SHORTEST:
        raise AudioError(
            f"{where}: {tuple(wave.shape)} from sample {piece.start}; one channel of {_SHORTEST} samples is needed"
        )
    if not wave.isfinite().all():
        raise AudioError(f"{where}: values from sample {piece.start} on are not finite: decode it again")
    return wave
