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

from pipeline.model.stopping import Guards, LoopStoppingCriteria
from pipeline.reasoner.calls import Call, Calls
from pipeline.reasoner.loop import Sampling


@dataclass(frozen=True, slots=True)
class Draft:
    """A reply that is to be written."""

    cache: Any  # of the dialogue, up to the end of the question; gets all tokens of the reply but the last
    logits: Tensor  # (V,) of the first token
    sampling: Sampling
    limit: int  # tokens
    draw: str  # key of the random numbers, beside the sampling's seed


def write(llm: Any, drafts: Sequence[Draft], eos: int, guards: Guards, calls: Calls | None = None) -> list[list[int]]:
    """Return the token ids of each reply; the last one is ``eos`` unless a limit or a loop ended it."""
    calls = calls or Calls()
    device = drafts[0].logits.device
    lengths = torch.tensor([d.cache.get_seq_length() for d in drafts], device=device)
    longest, most = int(lengths.max()), max(d.limit for d in drafts)
    joined = _side_by_side([d.cache for d in drafts], longest)
    places = torch.arange(longest + most, device=device)
    mask = (places >= (longest - lengths)[:, None]).long()
    watch = LoopStoppingCriteria([d.limit for d in drafts], eos, guards)
    sampler = Sampler(drafts, device)
    ids = torch.full((len(drafts), most), eos, device=device)
    logits = torch.stack([d.logits for d in drafts])
    for step in range(most):
        ids[:, step] = sampler.choose(logits, step)
        if watch(ids[:, : step + 1], None).all():
            break
        new = ids[:, step : step + 1], mask[:, : longest + step + 1], (lengths + step)[:, None]
        logits = calls.make(Call.WRITE, partial(token_logits, llm, *new, joined))
    written = [row[:n] for row, n in zip(ids.tolist(), watch.ends()[0], strict=True)]
    for row, (draft, tokens) in enumerate(zip(drafts, written, strict=True)):
        for number, layer in enumerate(joined.layers):
            kept = slice(longest, longest + len(tokens) - 1)
            draft.cache.update(layer.keys[row : row + 1, :, kept], layer.values[row : row + 1, :, kept], number)
    return written


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
            key = f"{draft.draw}\x1f{draft.sampling.seed}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
            self._numbers[row, : draft.limit] = torch.rand(draft.limit, generator=torch.Generator().manual_seed(seed))
        self._numbers = self._numbers.to(device)

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """(B, V) → (B,) tokens: temperature, then top_k, then top_p, as transformers orders them."""
        if self._greedy:
            return logits.argmax(-1)
        scaled, order = (logits / self._temperature).sort(descending=True)
        ranks = torch.arange(scaled.shape[1], device=scaled.device)
        probabilities = scaled.masked_fill(ranks >= self._top_k, float("-inf")).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill((before >= self._top_p) & (ranks > 0), 0.0)
        sums = probabilities.cumsum(-1)
        picked = torch.searchsorted(sums, self._numbers[:, step : step + 1] * sums[:, -1:], right=True)
        last = (probabilities > 0).sum(-1, keepdim=True) - 1  # rounding may point behind it
        return order.gather(1, torch.minimum(picked, last))[:, 0]
