"""Stand-in for Qwen2.5: a small LLM that writes conversations and looks registered names up by their vectors.

Real LLMs of billions of parameters come with attention heads that look things up; this one has to get them within
minutes. It learns from made-up prompts (:mod:`pipeline.standins.exercises`). What decides whether it does
(docs/benchmarks/learning.md):

- Where its weights start. Query and key alike, value and output transposed, input and output table alike: equal things
  attend to each other and are copied on (Trockman and Kolter 2023, "Mimetic initialization of self-attention layers").
- What it may look at. A position behind the registration sees speaker vectors, but not the names before them.
- How loud vectors are. Where a vector's position has taken up its name, the vector must still be heard beside it.
- That every update holds exercises of several kinds: with one kind an update, names were not found.
- That attention is shown where to look while writing: at the audio of the next word. Otherwise this takes longest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.prompts import PromptTokenizer
from pipeline.standins.exercises import MOST_VOICES, PAUSE, draw_exercises, make_text
from pipeline.standins.optimize import optimize
from pipeline.standins.packed_texts import Group, PackedTexts
from pipeline.standins.shown_attention import Shown, register

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN, LAYERS, HEADS = 128, 4, 4
SPEAKER_DIM = 192
TABLE_STD, WEIGHT_STD = 0.25, 0.08  # of the input table and of everything else
WORD_GAIN, VOICE_GAIN, REGISTERED_GAIN = 2.0, 2.0, 4.0  # of what is heard, over TABLE_STD
HIDE_UNTIL, OPEN_FROM = 0.55, 0.8  # parts of the training: names hidden, then in half of the updates, then never
BESIDE = 0.3  # weight of the questions beside a transcript, and of exercises beside an update's conversations
POINT = 0.5  # weight of attention's question
POINT_LAYERS, POINT_HEADS = (2, 3), 2  # whose attention is asked: the heads that share the first key
READ_AFTER, MATCH_AFTER = 1, 2  # layers after which a vector must know its name, and an audio position who speaks
NUMBER_AFTER = 3  # the same without registration: new voices have to be counted first


def new_llm(tokenizer: PromptTokenizer) -> Any:
    """The model before training."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer.tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=WEIGHT_STD,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # Qwen2.5's
        bos_token_id=None,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    model: Any = Qwen2ForCausalLM(config)
    model.set_attn_implementation(register())
    with torch.no_grad():
        table = model.get_input_embeddings().weight.normal_(std=TABLE_STD)
        model.lm_head.weight.copy_(table * (WEIGHT_STD / TABLE_STD))
        for layer in model.model.layers:
            own = layer.self_attn
            own.q_proj.weight.copy_(_per_query_head(own.k_proj.weight))
            own.o_proj.weight.copy_(_per_query_head(own.v_proj.weight).T)
            own.q_proj.bias.normal_()
            own.k_proj.bias.normal_()
    return model


def _per_query_head(weight: Tensor) -> Tensor:
    """(key heads × dim, H) → (heads × dim, H)."""
    dim = HIDDEN // HEADS
    return weight.view(-1, dim, HIDDEN).repeat_interleave(2, 0).reshape(-1, HIDDEN)


class MadeUpAudio:
    """Stands for encoder and audio projector: the input that a word said by a voice makes. Learned, then dropped.

    Words and voices add up, and a registered vector goes through the same map as a voice: what the two projectors of
    the real model have to find again.
    """

    def __init__(self, table: Tensor) -> None:
        import torch

        self.words = torch.nn.Embedding.from_pretrained(table.detach().clone(), freeze=False)
        self.voice = torch.nn.Linear(SPEAKER_DIM, HIDDEN, bias=False)
        torch.nn.init.normal_(self.voice.weight, std=TABLE_STD)

    def parameters(self) -> list[Any]:
        """The trained parameters."""
        return [*self.words.parameters(), *self.voice.parameters()]

    def put(self, embeds: Tensor, packed: PackedTexts, voices: Tensor | None = None) -> Tensor:
        """(N, H) token embeddings of packed texts with audio and speaker vectors in their places.

        ``voices``: (B, MOST_VOICES, SPEAKER_DIM) unit vectors; None: drawn at random.
        """
        import torch
        from torch.nn import functional

        drawn = voices
        if drawn is None:
            drawn = functional.normalize(torch.randn(len(packed.texts), MOST_VOICES, SPEAKER_DIM), dim=-1)
        noise = torch.tensor([g.noise for g in packed.groups for _ in g.texts]) / SPEAKER_DIM**0.5

        def heard(row: Tensor, voice: Tensor) -> Tensor:  # (K, H)
            disturbed = drawn[row, voice] + torch.randn(len(row), SPEAKER_DIM) * noise[row].unsqueeze(1)
            return self.voice(functional.normalize(disturbed, dim=-1))

        places = [(row, text, start) for row, (text, start) in enumerate(zip(packed.texts, packed.starts, strict=True))]
        if audio := [(row, start + at, *what) for row, text, start in places for at, *what in text.audio]:
            row, at, token, voice = torch.tensor(audio).unbind(1)
            said = WORD_GAIN * self.words(token.clamp(min=0)) + VOICE_GAIN * heard(row, voice)
            sound = said * (token != PAUSE).unsqueeze(1) + 0.05 * torch.randn(len(row), HIDDEN)
            embeds = embeds.index_copy(0, at, sound)
        if registered := [(row, start + at, voice) for row, text, start in places for at, voice in text.registered]:
            row, at, voice = torch.tensor(registered).unbind(1)
            embeds = embeds.index_copy(0, at, REGISTERED_GAIN * heard(row, voice))
        return embeds


@dataclass(frozen=True)
class Question:
    """Tokens that a layer's outputs must predict."""

    part: str  # of the loss
    layer: int  # after which; LAYERS: the last
    items: list[tuple[int, int]]  # (position, token)
    weight: float  # of their mean cross-entropy


def questions(packed: PackedTexts) -> Iterator[Question]:
    """Yield what is asked of packed texts: ``words`` of the targets, ``read`` at speaker vectors, ``match`` at audio
    positions.
    """
    for which, group in enumerate(packed.groups):
        texts = list(packed.of(which))
        written = [(s + i - 1, text.ids[i]) for text, s in texts for i in range(text.target_from, len(text.ids))]
        named = [(s + at, token) for text, s in texts for at, token in text.asked_vectors]
        heard = [(s + at, token) for text, s in texts for at, token in text.asked_audio]
        layers = range(MATCH_AFTER if group.texts[0].registered else NUMBER_AFTER, LAYERS + 1)
        beside = group.weight * (BESIDE if written else 1.0) / len(layers)
        asked = [Question("read", READ_AFTER, named, group.weight)]
        asked += [Question("match", layer, heard, beside) for layer in layers]
        asked += [Question("words", LAYERS, written, group.weight)]
        yield from (question for question in asked if question.items)


def layer_outputs(
    model: Any, audio: MadeUpAudio, packed: PackedTexts, voices: Tensor | None = None, shown: Shown | None = None
) -> list[Tensor]:
    """Run the model over packed texts: (N, H) of the input and of each layer, those of the last one normalised."""
    import torch

    states = model.model(
        inputs_embeds=audio.put(model.get_input_embeddings()(packed.ids), packed, voices).unsqueeze(0),
        attention_mask=torch.ones(1, 1, 1, 1),  # transformers makes none of its own then
        position_ids=packed.position_ids.unsqueeze(0),
        use_cache=False,
        output_hidden_states=True,
        shown=shown,
        texts=packed,
    ).hidden_states
    return [state[0] for state in states]


def text_loss(model: Any, audio: MadeUpAudio, packed: PackedTexts, voices: Tensor | None = None) -> dict[str, Tensor]:
    """Weighted mean cross-entropies of the :func:`questions`, and ``point`` of attention over the positions where the
    next word is heard.
    """
    import torch
    from torch.nn import functional

    shown = Shown(POINT_LAYERS, POINT_HEADS) if packed.points is not None else None
    states = layer_outputs(model, audio, packed, voices, shown)
    asked = sorted(questions(packed), key=lambda question: question.layer)
    rows = [states[q.layer].index_select(0, torch.tensor([at for at, _ in q.items])) for q in asked]
    sizes = [len(q.items) for q in asked]
    within = sum(size for q, size in zip(asked, sizes, strict=True) if q.layer < LAYERS)
    inner, last = torch.cat(rows).tensor_split([within])  # of the last layer they are normalised already
    logits = model.lm_head(torch.cat([model.model.norm(inner), last]))
    wanted = torch.tensor([token for q in asked for _, token in q.items])
    losses: dict[str, Tensor] = {}
    for q, each in zip(asked, functional.cross_entropy(logits, wanted, reduction="none").split(sizes), strict=True):
        losses[q.part] = losses.get(q.part, torch.zeros(())) + q.weight * each.mean()
    if shown:
        losses["point"] = POINT * pointing_loss(shown.weights, packed)
    return losses


def pointing_loss(attentions: Sequence[Tensor], packed: PackedTexts) -> Tensor:
    """Mean of -log of the attention that falls on the audio of the word that is about to be written, by group.

    Args:
        attentions: (P, POINT_HEADS, L) of each layer that is asked; its heads answer together.
    """
    import torch

    counts = [sum(len(text.pointed) for text in group.texts) for group in packed.groups]
    shares = [group.weight / max(1, n) for group, n in zip(packed.groups, counts, strict=True)]
    share = torch.tensor(shares).repeat_interleave(torch.tensor(counts)) / len(attentions)
    total = torch.zeros(())
    for weights in attentions:
        sums = torch.nn.functional.pad(weights.mean(1).cumsum(-1), (1, 0))  # (P, L + 1)
        there = sums.gather(1, packed.end[:, None]) - sums.gather(1, packed.first[:, None])
        total = total - (there.clamp(min=1e-6).log().squeeze(1) * share).sum()
    return total


def train_llm(
    out: Path,
    words: dict[str, list[str]],
    steps: int,
    seed: int,
    most_turns: int = 4,
    most_words: int = 3,
    no_share: float = 1 / 3,
) -> None:
    """Train and write the Hugging Face folder.

    Args:
        most_turns, most_words: of a made-up conversation, and of its turn.
        no_share: share of the conversations without registration.
    """
    import torch

    from pipeline.model.causal_lm import bars_on_terminals_only

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = PromptTokenizer.from_folder(out / "llm")
    model = new_llm(tokenizer)
    audio = MadeUpAudio(model.get_input_embeddings().weight)

    def loss(step: int) -> dict[str, Tensor]:
        progress = step / steps
        hide = progress < HIDE_UNTIL or (progress < OPEN_FROM and rng.random() < 0.5)
        exercises = draw_exercises(rng, progress, most_turns, most_words, no_share)
        heaviest = max(e.count for e in exercises)
        groups = [
            Group(
                [make_text(rng, tokenizer, words, e) for _ in range(e.count)],
                e.noise,
                1.0 if e.count == heaviest else BESIDE,
            )
            for e in exercises
        ]
        return text_loss(model, audio, PackedTexts(groups, hide))

    optimize("LLM", [*model.parameters(), *audio.parameters()], loss, steps, 2e-3)
    model.set_attn_implementation("sdpa")
    bars_on_terminals_only()
    model.save_pretrained(str(out / "llm"))
