"""Answers of two engines to the same prompts, compared token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt, PromptTokenizer


@dataclass(frozen=True)
class Parting:
    """The first difference between two answers to one prompt."""

    prompt: int  # its number
    position: int  # of the first token that differs
    margin: float  # by how much the model's logit of the first engine's token is above that of the second's

    def __str__(self) -> str:
        return f"prompt {self.prompt}: token {self.position} differs, logit margin {self.margin:.2e}"


def partings(
    model: Any, tokenizer: PromptTokenizer, prompts: Sequence[Prompt], first: Sequence[Answer], second: Sequence[Answer]
) -> list[Parting]:
    """Return where answers part.

    Args:
        model: in one piece; computes the logits of both tokens after the tokens that are alike.
    """
    found = []
    for number, (prompt, a, b) in enumerate(zip(prompts, first, second, strict=True)):
        one, two = (*a.ids, tokenizer.eos), (*b.ids, tokenizer.eos)
        shared = min(len(one), len(two))
        position = next((i for i in range(shared) if one[i] != two[i]), shared)
        if position < shared:
            logits = _next_logits(model, tokenizer, prompt, one[:position])
            found.append(Parting(number, position, float(logits[one[position]] - logits[two[position]])))
    return found


def _next_logits(model: Any, tokenizer: PromptTokenizer, prompt: Prompt, written: Sequence[int]) -> Any:
    """(V,) logits after a prompt and these tokens."""
    import torch

    from pipeline.model.processing_speakerlm import SpeakerLMProcessor

    processor = SpeakerLMProcessor(tokenizer, model.config.projector["stride"], model.config.speaker_dim)
    inputs = processor.encode([prompt])
    ids = inputs.pop("input_ids").flatten()
    del inputs["attention_mask"]
    with torch.inference_mode():
        embeds = model.embed(input_ids=ids, **inputs)
        answer = model.get_input_embeddings()(torch.tensor(list(written), dtype=torch.long))
        row = torch.cat([embeds, answer.to(embeds.dtype)])
        return model.llm(inputs_embeds=row[None], use_cache=False).logits[0, -1]
