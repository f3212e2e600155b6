"""Speaker-Reasoner's published weights behind an endpoint: the dialogue of :mod:`pipeline.reasoner.loop` as its client.

Every turn is a request with the whole conversation so far: the clip, then the slices that the model asked for, each as
an audio part. Guards, attempts and their sampling are those of the loop. The first question is the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.baselines.audio_endpoint import AudioEndpoint, Reply, audio_part
from pipeline.baselines.systems import System
from pipeline.prompts import AudioPiece, TextPiece
from pipeline.reasoner.loop import LoopLimits, ReasonerClip, Request, numbered_rules, reason
from shards.errors import ModelError

LANGUAGE = "zh"  # of the weights' questions
_BOUNDS = ("<start>", "<end>")  # of audio in our own prompts; a server's template sets its own


@dataclass
class EndpointEngine:
    """An engine of the loop for one clip."""

    endpoint: AudioEndpoint
    prompt: str
    attempts: int = 0  # HTTP requests
    used: dict[str, int] = field(default_factory=dict)  # tokens

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        """Ask for the reply of each request; None: the server says that the model's context is full.

        Raises:
            ModelError: the server refuses, or does not answer.
        """
        return [self._answer(request) for request in requests]

    def release(self, key: str) -> None:
        """Keep nothing: the server has no state of a dialogue."""

    def _answer(self, request: Request) -> str | None:
        drawn = request.sampling
        how = {"temperature": drawn.temperature, "top_p": drawn.top_p, "seed": drawn.seed}
        how |= {"top_k": drawn.top_k} if drawn.top_k else {}
        try:
            reply = self.endpoint.chat(list(self._messages(request)), request.max_new_tokens, how)
        except ModelError as error:
            if "HTTP 400" in str(error) and "context" in str(error):
                return None
            raise
        self.attempts += reply.attempts
        for name, count in reply.usage.items():
            if isinstance(count, int):
                self.used[name] = self.used.get(name, 0) + count
        return reply.text

    def _messages(self, request: Request) -> Iterator[dict[str, Any]]:
        for turn, question in enumerate(request.questions):
            yield {"role": "user", "content": list(self._content(request.clip, question, turn == 0))}
            if turn < len(request.replies):
                yield {"role": "assistant", "content": request.replies[turn]}

    def _content(self, clip: ReasonerClip, question: Sequence[Any], first: bool) -> Iterator[dict[str, Any]]:
        texts = [p.text for p in question if isinstance(p, TextPiece) and p.text not in _BOUNDS]
        for piece in question:
            if isinstance(piece, AudioPiece):
                end = None if piece.length is None else piece.start + piece.length
                yield audio_part(clip.audio[piece.start : end], self.endpoint.system.audio_url)
        if text := self.prompt if first else "".join(texts):
            yield {"type": "text", "text": text}


@dataclass
class DialogueEndpoint:
    """A system that is asked by a dialogue."""

    endpoint: AudioEndpoint
    references: Mapping[str, bytes] = field(default_factory=dict)  # none

    @property
    def model(self) -> str:
        """Return the name at the endpoint."""
        return self.endpoint.model

    @property
    def system(self) -> System:
        """Return how it is asked and read."""
        return self.endpoint.system

    @property
    def most_tokens(self) -> int:
        """Return the limit of one reply."""
        return self.endpoint.most_tokens

    def hear(self, wave: np.ndarray, prompt: str) -> Reply:
        """Lead the dialogue about (n,) float32 at 16 kHz; return its replies, one after the other.

        A dialogue that ends without an answer is cut: its observations are the transcript.

        Raises:
            ModelError: the server refuses, or does not answer.
        """
        engine = EndpointEngine(self.endpoint, prompt)
        limits = replace(LoopLimits(), max_new_tokens=self.most_tokens)
        rules = numbered_rules(self.system.numbered)
        (outcome,) = reason([ReasonerClip("clip", wave, LANGUAGE)], engine, rules, limits)
        usage = {**engine.used, "turns": outcome.turns, "replies": outcome.attempts}
        text = "\n".join(outcome.replies)
        return Reply(text, "end" if outcome.complete else "cut", usage, max(1, engine.attempts))
