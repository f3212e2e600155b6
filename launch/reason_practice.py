"""A stand-in LLM practises the times of Speaker-Reasoner's dialogues on real speech.

A public LLM has written numbers before; the demo's has to learn within minutes where in the audio a line is heard, and
to read the time there. As in stage 0 (docs/benchmarks/learning.md) each step is asked for on its own, beside the text
of the dialogue (``words``): where a time is about to be written, attention falls on the audio at that time (``point``);
and at every audio position, inner layers say its time (``read``). All weights are trained but the encoder's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.frames import audio_positions, position_seconds
from pipeline.prompts import Part, PromptTokenizer
from pipeline.standins.optimize import optimize
from shards.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.collate import Batch
    from pipeline.recipe.schema import Recipe

LONGEST = 150  # tenths of a second, in a clip of the demo
NAME = "speakerlm_practice"
POINT_LAYERS, POINT_HEADS = (2, 3), 2  # those that stage 0 asked where the next word is heard
READ_AFTER = (2, 3)  # layers whose outputs at audio positions must tell the time
READ = 0.3  # weight of that question
NEAR = 0.13  # seconds between a time and the middle of a position where it is heard
PEAK = 2e-3


def time_text(tenths: int) -> str:
    """Return a time as lines have it: ``0.0``, ``12.5``."""
    return repr(tenths / 10)


class Heads:
    """Queries and keys of the heads that are asked where they look, layer by layer."""

    def __init__(self) -> None:
        self.found: list[tuple[Tensor, Tensor]] = []  # (POINT_HEADS, N, D), scaled, and (N, D)


def register() -> str:
    """Make packed attention that keeps queries and keys known to transformers; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    from pipeline.model import packed_attention

    def attention(
        module: Any, query: Tensor, key: Tensor, *args: Any, heads: Heads | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if heads is not None and module.layer_idx in POINT_LAYERS:
            heads.found.append((query[0, :POINT_HEADS] * query.shape[-1] ** -0.5, key[0, 0]))
        return packed_attention.attention(module, query, key, *args, **kwargs)

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def times_written(batch: Batch, tokenizer: PromptTokenizer) -> tuple[Tensor, Tensor]:
    """Positions before the tokens of times, (K,), and the seconds that they say, (K,)."""
    import torch

    assert batch.parts is not None
    places = {part: place for place, part in enumerate(Part)}
    of_time = (batch.parts == places[Part.TIME]) | (batch.parts == places[Part.BOUNDARY])
    number = of_time.nonzero().flatten()
    seconds = [float(tokenizer.tokenizer.decode([token])) for token in batch.target_ids[number].tolist()]
    return batch.target_index[number], torch.tensor(seconds)


def seconds_heard(batch: Batch, stride: int) -> Tensor:
    """Seconds in the clip of every position, (N,); -1 where no audio of the clip is heard."""
    import torch

    assert batch.waveform_starts is not None
    middles: list[float] = []
    for length, start in zip(batch.waveform_lengths.tolist(), batch.waveform_starts.tolist(), strict=True):
        middles += position_seconds(audio_positions(length, stride), start / SAMPLE_RATE, stride)
    found = torch.full((len(batch.input_ids),), -1.0)
    found[batch.audio_index] = torch.tensor(middles[: len(batch.audio_index)])
    return found


def point_loss(heads: Heads, batch: Batch, at: Tensor, seconds: Tensor, heard: Tensor) -> Tensor:
    """Mean of -log of the attention that falls on audio at the time which is about to be written.

    Args:
        at: (K,) positions before the times.
        seconds: (K,) the times.
        heard: (N,) see :func:`seconds_heard`.
    """
    import torch

    places = torch.arange(len(heard))
    sample = torch.bucketize(places, batch.cu_seqlens[1:].long(), right=True)
    seen = (sample[at][:, None] == sample) & (at[:, None] >= places)
    wanted = seen & (heard >= 0) & ((heard - seconds[:, None]).abs() <= NEAR)
    known = wanted.any(1)
    losses = []
    for query, key in heads.found:
        scores = (query[:, at[known]] @ key.T).masked_fill(~seen[known], float("-inf"))
        there = (scores.softmax(-1).mean(0) * wanted[known]).sum(-1)
        losses.append(-there.clamp(min=1e-6).log().mean())
    return torch.stack(losses).mean()


def losses_of(model: Any, batch: Batch, tokenizer: PromptTokenizer, tokens: Tensor) -> dict[str, Tensor]:
    """Losses of a micro-batch of dialogues.

    Args:
        tokens: (LONGEST,) the token of each time in tenths of a second.
    """
    import torch
    from torch.nn import functional

    from pipeline.model.packed_attention import Segments, no_mask

    heads = Heads()
    embeds = model.embed(
        batch.waveforms,
        batch.waveform_lengths,
        batch.input_ids,
        batch.audio_index,
        batch.speaker_vectors,
        batch.speaker_index,
        unused_audio=batch.unused_audio,
        waveform_starts=batch.waveform_starts,
    )
    states = model.llm.get_decoder()(
        inputs_embeds=embeds[None],
        attention_mask=no_mask(embeds.device),
        position_ids=batch.position_ids[None],
        segments=Segments.of(batch.cu_seqlens, embeds.device),
        use_cache=False,
        output_hidden_states=True,
        heads=heads,
    ).hidden_states
    head, norm = model.llm.get_output_embeddings(), model.llm.get_decoder().norm
    each = functional.cross_entropy(head(states[-1][0, batch.target_index]), batch.target_ids, reduction="none")
    weights = torch.ones_like(each) if batch.target_weights is None else batch.target_weights
    found = {"words": (each * weights).sum() / weights.sum()}
    heard = seconds_heard(batch, model.config.projector["stride"])
    tenths = (10 * heard + 1e-3).long()
    told = ((heard >= 0) & (tenths < len(tokens))).nonzero().flatten()
    inner = torch.cat([norm(states[layer][0, told]) for layer in READ_AFTER])
    found["read"] = READ * functional.cross_entropy(head(inner), tokens[tenths[told]].repeat(len(READ_AFTER)))
    at, seconds = times_written(batch, tokenizer)
    if len(at):
        found["point"] = point_loss(heads, batch, at, seconds, heard)
    return found


def time_tokens(tokenizer: PromptTokenizer) -> Tensor:
    """Return the token of each time in tenths of a second, (LONGEST,)."""
    import torch

    return torch.tensor([tokenizer.encode_common(time_text(n))[0] for n in range(LONGEST)])


def prepare(model: Any) -> None:
    """Let everything of a model be trained but its encoder, and its heads be asked where they look."""
    model.trainable(("audio_projector", "lora"))
    model.llm.requires_grad_(True)
    model.llm.set_attn_implementation(register())


def practise(model: Any, recipe: Recipe, tokenizer: PromptTokenizer, steps: int) -> None:
    """Train a model in place on the dialogues of a recipe's training data, each step on one micro-batch."""
    import torch

    from pipeline.ranks.launch import Ranks
    from pipeline.train.stage_data import StageData

    prepare(model)
    tokens = time_tokens(tokenizer)
    batches = _batches(StageData(recipe, Ranks(0, 1, 0, torch.device("cpu")), tokenizer).train(None))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimize("dialogues", trained, lambda step: losses_of(model, next(batches), tokenizer, tokens), steps, PEAK)


def _batches(steps: Iterator[Any]) -> Iterator[Batch]:
    for step in steps:
        yield from _with_samples(step.micro_batches)


def _with_samples(micro_batches: Sequence[Batch]) -> list[Batch]:
    return [batch for batch in micro_batches if batch.weight]
