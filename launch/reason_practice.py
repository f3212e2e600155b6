"""A stand-in LLM practises Speaker-Reasoner's dialogues on real speech.

A public LLM has written numbers before; the demo's has to learn within minutes where in the audio a line is heard, to
read the time there, and to tell who speaks. As in stage 0 (docs/benchmarks/learning.md) each step is asked for on its
own, beside the text of the dialogue (``words``): attention falls on the audio of the time, label or word that is about
to be written (``point``); at every audio position inner layers say its time (``read``), and where one speaker is heard,
that speaker's number (``who``). All weights are trained but the encoder's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.frames import audio_positions, position_seconds
from pipeline.prompts import Part, PromptTokenizer
from pipeline.standins.optimize import optimize
from shards.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.collate import Batch
    from pipeline.ranks.launch import Ranks
    from pipeline.recipe.schema import Recipe

LONGEST = 150  # tenths of a second, in a clip of the demo
NAME = "speakerlm_practice"
POINT_LAYERS, POINT_HEADS = (2, 3), 2  # those that stage 0 asked where the next word is heard
READ_AFTER = (2, 3)  # layers whose outputs at audio positions must tell the time
READ = 0.3  # weight of that question
NEAR = 0.13  # seconds between a time and the middle of a position where it is heard
WHO_AFTER = (3,)  # layers whose outputs at audio positions must tell who speaks; stage 0 asked for numbers there too
WHO = 0.5  # weight of that question
BEGINS = 0.3  # seconds from the start of a line where its label is heard
PEAK = 2e-3
_PLACES = {part: place for place, part in enumerate(Part)}


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


@dataclass(frozen=True)
class Line:
    """A line that a dialogue writes. Places are among the targets of the micro-batch."""

    sample: int
    label: Sequence[int]  # places of its tokens; the last one is the speaker's number
    times: tuple[int, int]  # places of start and end
    start: float  # seconds of the clip
    end: float
    words: Sequence[int]  # places of its words, without the newline


def lines_written(batch: Batch, tokenizer: PromptTokenizer) -> list[Line]:
    """Return the lines of a micro-batch of dialogues, those of thoughts and of answers."""
    import torch

    assert batch.parts is not None
    part, ids = batch.parts.tolist(), batch.target_ids.tolist()
    samples = torch.bucketize(batch.target_index, batch.cu_seqlens[1:].long(), right=True).tolist()
    closing, (newline,) = len(tokenizer.encode_common("]:")), tokenizer.encode_common("\n")
    lines: list[Line] = []
    label: list[int] = []
    times: list[int] = []
    for n, kind in enumerate(part):
        if kind == _PLACES[Part.LABEL]:
            label, times = [*label, n] if label[-1:] == [n - 1] else [n], []
        elif kind == _PLACES[Part.TIME]:
            times.append(n)
            if len(times) == 2:
                first = n + 1 + closing
                words = range(first, ids.index(newline, first))
                start, end = (_seconds(ids[t], tokenizer) for t in times)
                lines.append(Line(samples[n], label, (times[0], n), start, end, words))
    return lines


def _seconds(token: int, tokenizer: PromptTokenizer) -> float:
    return float(tokenizer.tokenizer.decode([token]))


def spans_heard(batch: Batch, lines: Sequence[Line], tokenizer: PromptTokenizer) -> tuple[Tensor, Tensor]:
    """Return what attention is asked for: where in the audio that is heard which is about to be written.

    A time and a bound of an observation are heard there; a label where its line begins; words within their line.

    Returns:
        Positions before the tokens, (K,), and from and until when in the clip, (K, 2), seconds.
    """
    import torch

    assert batch.parts is not None
    spans: dict[int, tuple[float, float]] = {}
    for n in (batch.parts == _PLACES[Part.BOUNDARY]).nonzero().flatten().tolist():
        spans[n] = 2 * (_seconds(int(batch.target_ids[n]), tokenizer),)
    for line in lines:
        spans |= dict.fromkeys(line.label, (line.start, min(line.start + BEGINS, line.end)))
        spans |= {line.times[0]: 2 * (line.start,), line.times[1]: 2 * (line.end,)}
        spans |= dict.fromkeys(line.words, (line.start, line.end))
    return batch.target_index[list(spans)], torch.tensor(list(spans.values())).view(-1, 2)


def speakers_heard(
    batch: Batch, lines: Sequence[Line], heard: Tensor, tokenizer: PromptTokenizer, stride: int
) -> tuple[Tensor, Tensor]:
    """Return the positions where one speaker is heard, (P,), and the token of the speaker's number, (P,).

    In the clip these are the speakers of the lines; the label of a cached entry stands before its audio.

    Args:
        heard: (N,) see :func:`seconds_heard`.
    """
    import torch

    assert batch.waveform_starts is not None
    number = torch.full((len(heard),), -1)  # -1: no speaker, -2: several
    before, first = 1 + len(tokenizer.encode_common("<start>")), 0
    for length, start in zip(batch.waveform_lengths.tolist(), batch.waveform_starts.tolist(), strict=True):
        places = batch.audio_index[first : first + audio_positions(length, stride)]
        first += audio_positions(length, stride)
        if start < 0:
            number[places] = batch.input_ids[places[0] - before]
    starts = batch.cu_seqlens.tolist()
    for line in lines:
        here = slice(starts[line.sample], starts[line.sample + 1])
        token = int(batch.target_ids[line.label[-1]])
        there = (heard[here] >= line.start) & (heard[here] < line.end)
        other = there & (number[here] != -1) & (number[here] != token)
        number[here][there] = token
        number[here][other] = -2
    asked = (number >= 0).nonzero().flatten()
    return asked, number[asked]


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


def point_loss(heads: Heads, batch: Batch, at: Tensor, spans: Tensor, heard: Tensor) -> Tensor:
    """Mean of -log of the attention that falls on audio of the time that is asked for.

    Args:
        at: (K,) positions.
        spans: (K, 2) from and until when, seconds.
        heard: (N,) see :func:`seconds_heard`.
    """
    import torch

    places = torch.arange(len(heard))
    sample = torch.bucketize(places, batch.cu_seqlens[1:].long(), right=True)
    seen = (sample[at][:, None] == sample) & (at[:, None] >= places)
    within = (heard >= spans[:, :1] - NEAR) & (heard <= spans[:, 1:] + NEAR)
    wanted = seen & (heard >= 0) & within
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
    lines = lines_written(batch, tokenizer)
    asked, wanted = speakers_heard(batch, lines, heard, tokenizer, model.config.projector["stride"])
    if len(asked):
        numbers = torch.tensor([tokenizer.encode_common(str(n))[0] for n in range(10)])
        among = (wanted[:, None] == numbers).nonzero()[:, 1].repeat(len(WHO_AFTER))
        inner = norm(torch.cat([states[layer][0, asked] for layer in WHO_AFTER]))
        found["who"] = WHO * functional.cross_entropy(head(inner)[:, numbers], among)
    at, spans = spans_heard(batch, lines, tokenizer)
    if len(at):
        found["point"] = point_loss(heads, batch, at, spans, heard)
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


def practise(
    model: Any, recipes: Sequence[Recipe], tokenizer: PromptTokenizer, steps: int, ranks: Ranks | None = None
) -> None:
    """Train a model in place on the recipes' dialogues, each step on one micro-batch of one of them on every rank."""
    import torch

    from pipeline.ranks.launch import Ranks
    from pipeline.train.stage_data import StageData

    prepare(model)
    tokens, ranks = time_tokens(tokenizer), ranks or Ranks(0, 1, 0, torch.device("cpu"))
    batches = [_batches(StageData(recipe, ranks, tokenizer).train(None)) for recipe in recipes]
    trained = [p for p in model.parameters() if p.requires_grad]

    def losses(step: int) -> dict[str, Tensor]:
        return losses_of(model, next(batches[step % len(batches)]), tokenizer, tokens)

    optimize("dialogues", trained, losses, steps, PEAK, ranks.world_size)


def _batches(steps: Iterator[Any]) -> Iterator[Batch]:
    """Yield the micro-batches of steps that have samples."""
    for step in steps:
        yield from (batch for batch in step.micro_batches if batch.weight)
