"""Write replies of several dialogues together: their KV caches side by side, one token of each per step.

Dialogues are at different turns, so their caches differ in length. They are padded on the left into one cache, which
lives for these replies only; what it gained goes back to the cache of each dialogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.stopping import AnswerTokens, Guards
from pipeline.reasoner.calls import Call, Calls
from pipeline.reasoner.loop import Sampling


@dataclass(slots=True)
class Draft:
    """A reply that is to be written, or that is continued."""

    cache: Any  # of the dialogue, up to the end of the question; gets all tokens of the reply but the last
    logits: Tensor  # (V,) of the first token
    sampling: Sampling
    limit: int  # tokens
    draw: str  # key of the random numbers, beside the sampling's seed
    tokens: AnswerTokens | None = None  # so far; the last one is ``eos`` unless a limit or a loop ended the reply


def write(
    llm: Any, drafts: Sequence[Draft], eos: int, guards: Guards, calls: Calls | None = None, share: float = 1.0
) -> list[AnswerTokens]:
    """Write replies until this share of them has ended, at least one; the next call continues the others.

    Returns:
        The tokens of each, which are its draft's.
    """
    calls = calls or Calls()
    device = drafts[0].logits.device
    lengths = torch.tensor([d.cache.get_seq_length() for d in drafts], device=device)
    longest, most = int(lengths.max()), max(d.limit for d in drafts)
    joined = _side_by_side([d.cache for d in drafts], longest)
    places = torch.arange(longest + most, device=device)
    mask = (places >= (longest - lengths)[:, None]).long()
    sampler = Sampler(drafts, device)
    replies = [d.tokens or AnswerTokens(d.limit, eos, guards) for d in drafts]
    begun = [len(r.ids) for r in replies]
    logits = torch.stack([d.logits for d in drafts])
    for step in range(most):
        chosen = sampler.choose(logits, torch.tensor([[len(r.ids)] for r in replies], device=device))
        for reply, before, token in zip(replies, begun, chosen.tolist(), strict=True):
            if step or not before:  # the last token of a reply that is continued is not in its cache
                reply.extend([token])
        if sum(r.stop is not None for r in replies) >= share * len(replies) and any(r.stop for r in replies):
            break
        last = torch.tensor([[r.ids[-1]] for r in replies], device=device)
        new = last, mask[:, : longest + step + 1], (lengths + step)[:, None]
        logits = calls.make(Call.WRITE, partial(token_logits, llm, *new, joined))
    for row, (draft, reply, before) in enumerate(zip(drafts, replies, begun, strict=True)):
        computed = max(0, len(reply.ids) - before - (not before))
        for number, layer in enumerate(joined.layers):
            kept = slice(longest, longest + computed)
            draft.cache.update(layer.keys[row : row + 1, :, kept], layer.values[row : row + 1, :, kept], number)
        draft.tokens = reply
    return replies


def token_logits(llm: Any, ids: Tensor, mask: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
    """As :func:`next_logits`, of token ids (B, n)."""
    return next_logits(llm, llm.get_input_embeddings()(ids), mask, position_ids, cache)


def next_logits(llm: Any, embeds: Tensor, mask: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
    """Run the LLM over new positions (B, n, H) after those of a cache, which grows; returns (B, V) of the last."""
    hidden = llm.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    logits: Tensor = llm.get_output_embeddings()(hidden)
    return logits.float()


def new_cache() -> Any:
    """Return an empty KV cache that holds every position of every layer, also of layers with a window."""
    from transformers import DynamicCache

    return DynamicCache()


def _side_by_side(caches: Sequence[Any], longest: int) -> Any:
    """Return one cache of B rows, each padded on the left."""
    joined = new_cache()
    for number in range(len(caches[0].layers)):
        layers = [cache.layers[number] for cache in caches]
        keys, values = (
            torch.cat([functional.pad(x, (0, 0, longest - x.shape[2], 0)) for x in rows])
            for rows in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        joined.update(keys, values, number)
    return joined


class Sampler:
    """Draws a token of each row by its own settings and random numbers, whatever the other rows are."""

    def __init__(self, drafts: Sequence[Draft], device: torch.device) -> None:
        """Draw each row's random numbers."""
        settings = [d.sampling for d in drafts]
        self._greedy = all(s.top_k == 1 for s in settings)
        self._temperature = torch.tensor([[s.temperature] for s in settings], device=device)
        self._top_p = torch.tensor([[s.top_p] for s in settings], device=device)
        self._top_k = torch.tensor([[s.top_k or 2**31] for s in settings], device=device)
        self._numbers = torch.zeros(len(drafts), max(d.limit for d in drafts))
        for row, draft in enumerate(drafts):
            if draft.sampling.top_k == 1:
                continue
            key = f"{draft.draw}\x1f{draft.sampling.seed}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
            self._numbers[row, : draft.limit] = torch.rand(draft.limit, generator=torch.Generator().manual_seed(seed))
        self._numbers = self._numbers.to(device)

    def choose(self, logits: Tensor, places: Tensor) -> Tensor:
        """(B, V) → (B,) tokens: temperature, then top_k, then top_p, as transformers orders them.

        Args:
            places: (B, 1) of the tokens in their replies, from 0; beyond the limit of a reply that has ended any.
        """
        if self._greedy:
            return logits.argmax(-1)
        scaled, order = (logits / self._temperature).sort(descending=True)
        ranks = torch.arange(scaled.shape[1], device=scaled.device)
        probabilities = scaled.masked_fill(ranks >= self._top_k, float("-inf")).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill((before >= self._top_p) & (ranks > 0), 0.0)
        sums = probabilities.cumsum(-1)
        numbers = self._numbers.gather(1, places.clamp(max=self._numbers.shape[1] - 1))
        picked = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)
        last = (probabilities > 0).sum(-1, keepdim=True) - 1  # rounding may point behind it
        return order.gather(1, torch.minimum(picked, last))[:, 0]
